"""Look at a restored server: its pages, our rules, its rows."""

import os

import psycopg

from recovery.cluster import (
    Cluster,
)
from recovery.contents import list_tables
from recovery.errors import ToolFailed
from recovery.proof import Proof
from recovery.server import Server
from recovery.tools import run

AMCHECK = "amcheck"
FOUND_DAMAGE = 2  # pg_amcheck ends so; with 1 it could not look


def examine(cluster: Cluster, database: str, proof: Proof) -> None:
    """Check every table and index for damage (pg_amcheck), our own rules, and count all rows."""
    if has_amcheck(cluster.server, database):
        proof.problems += check_pages(cluster, database)
    else:
        proof.notes.append(
            "tables and indexes were not looked at: this PostgreSQL comes without the extension amcheck"
        )
    with cluster.server.connect(database) as session:
        for ref in list_tables(session):
            if ref.leaf_quoted is not None:
                count = session.execute(f"SELECT count(*) FROM ONLY {ref.leaf_quoted}").fetchone()[0]  # type: ignore[index]
                proof.row_counts[ref.table] = proof.row_counts.get(ref.table, 0) + count
    proof.problems += check_rules(cluster.server, database)


def has_amcheck(server: Server, database: str) -> bool:
    """Tell whether the server's contrib modules are installed; some packages come without."""
    with server.connect(database) as session:
        row = session.execute("SELECT FROM pg_available_extensions WHERE name = %s", [AMCHECK]).fetchone()
    return row is not None


def check_pages(cluster: Cluster, database: str) -> list[str]:
    """Run pg_amcheck; its extension is put there for that and taken away again."""
    with cluster.server.connect(database) as session:
        had = session.execute("SELECT FROM pg_extension WHERE extname = %s", [AMCHECK]).fetchone() is not None
        if not had:
            session.execute("CREATE EXTENSION amcheck SCHEMA pg_catalog")
        given = cluster.server.parameters
        argv = [
            cluster.tools.program("pg_amcheck"), "--no-password", "--heapallindexed", f"--host={given['host']}",
            f"--port={given['port']}", f"--username={given['user']}", database,
        ]  # fmt: skip
        try:
            run(argv, {**os.environ, "LC_ALL": "C"})
        except ToolFailed as error:
            if error.code != FOUND_DAMAGE:
                raise
            return [f"pg_amcheck: {error.words.strip()[:500]}"]
        finally:
            if not had:
                session.execute("DROP EXTENSION amcheck")
    return []


def check_rules(server: Server, database: str) -> list[str]:
    """Return what recovery.verify_data_consistency finds; a database without our schema has nothing to break."""
    with server.connect(database) as session:
        session.execute("SET search_path = public")
        try:
            rows = session.execute(
                "SELECT table_name, issues_found FROM recovery.verify_data_consistency()"
                " WHERE consistency_check = 'ISSUES_FOUND'"
            ).fetchall()
        except (psycopg.errors.UndefinedFunction, psycopg.errors.InvalidSchemaName):
            return []
    return [f"{table}: {issue}" for table, issues in rows for issue in issues]
