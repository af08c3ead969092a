"""Rows of a backup in staging tables beside today's: `staged_<time>.<schema>.<table>`, one schema per partial restore.

From a logical backup only the wanted tables' data is loaded, into a scratch database; from base backups a scratch
server is brought to the moment. Neither touches today's tables.
"""

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from django.utils import timezone
from psycopg import sql

from pg.errors import Refused
from recovery import catalogue, manifest
from recovery.archive import APPLICATION, drop_leftovers, scratch_database
from recovery.contents import summarise
from recovery.drill import scratch_folder
from recovery.errors import Damaged
from recovery.logical import default_jobs
from recovery.models import Backup
from recovery.pitr import Target, plan_recovery
from recovery.recover import recovered
from recovery.scope import Scope, Table, read_scope, tables_of
from recovery.server import Server, Session, exclusive, home_server, require_database
from recovery.tools import find_tools, run
from recovery.verify import choose, require_roles

PREFIX = "staged_"
BEFORE = "before."  # what an application replaced


@dataclass(frozen=True)
class Staged:
    """One staging schema. `moment`: as of when its rows are, in words."""

    name: str
    scope: Scope
    backup_id: str
    moment: str
    staged_at: datetime


def stage(scope: Scope, wanted: str = "", target: Target | None = None) -> Staged:
    """Bring the scope's rows out of a backup into staging tables; return the schema.

    `wanted` is a backup's id or its beginning; by default the newest finished logical one, or with a `target` the one
    that reaches it. Safe twice: each makes a schema of its own; killed, none is left. Raises Busy, Refused,
    UnknownBackup, NotReachable, Damaged, NoSpace.
    """
    server = home_server()
    with exclusive(server) as session:
        require_database(server, session)
        catalogue.tidy()
        tables = tables_of(session, scope)
        with source_of(server, session, tables, wanted, target) as (source, backup, moment):
            return copy_over(session, source, scope, tables, backup, moment)


@contextmanager
def source_of(
    server: Server, session: Session, tables: list[Table], wanted: str, target: Target | None
) -> Iterator[tuple[Session, Backup, str]]:
    """Give a session on a database that holds the rows, the backup, and its moment in words."""
    chosen = None if target is not None and not wanted else choose(wanted, (Backup.Kind.LOGICAL,))
    if chosen is not None and chosen.kind == Backup.Kind.LOGICAL:
        if target is not None:
            raise Refused(f"backup {chosen.pk} is logical: it has one moment", "leave the target out")
        with loaded(server, session, chosen, tables) as inside:
            yield inside, chosen, f"{chosen.started_at:%Y-%m-%d %H:%M:%S} UTC"
        return
    plan = plan_recovery(target or Target("end"), str(chosen.pk) if chosen else "")
    with (
        scratch_folder() as folder,
        recovered(plan, folder / "data", sync=False) as (cluster, proof),
        cluster.server.connect(server.database) as inside,
    ):
        yield (
            inside,
            plan.backup,
            f"{plan.target}, last commit {proof.last_commit_at or 'that of the backup'}",
        )


@contextmanager
def loaded(server: Server, session: Session, backup: Backup, tables: list[Table]) -> Iterator[Session]:
    """Load the tables' data of a logical backup into a scratch database, and give a session on it."""
    folder = catalogue.folder_of(backup)
    if problems := manifest.check_files(folder, backup.manifest_sha256):
        raise Damaged(f"backup {backup.pk}: {summarise(problems[:5])}", "choose another one")
    body = manifest.read_manifest(folder)
    require_roles(session, body["database"])
    drop_leftovers(server, session)
    with scratch_database(server, session, backup, body["database"]) as name:
        load_section(folder, server, name, "pre-data")
        with server.connect(name) as inside:
            leaves = leaves_of(inside, tables)
            with tempfile.NamedTemporaryFile("w", suffix=".list") as chosen:
                chosen.write(entries_of(folder, server, leaves))
                chosen.flush()
                load_section(folder, server, name, "data", f"--use-list={chosen.name}")
            yield inside


def load_section(folder: Path, server: Server, database: str, section: str, *more: str) -> None:
    with server.connect_anywhere() as session:
        tools = find_tools(session.info.server_version // 10000)
    argv = [
        tools.program("pg_restore"), "--format=directory", f"--jobs={default_jobs()}", "--no-password",
        f"--section={section}", f"--dbname={server.conninfo(database)}", *more, str(folder / "dump"),
    ]  # fmt: skip
    run(argv, server.environment(APPLICATION))


def leaves_of(session: Session, tables: list[Table]) -> set[tuple[str, str]]:
    """Return schema and name of every relation that holds the tables' rows. Raises Refused for one that is missing."""
    found: set[tuple[str, str]] = set()
    for table in tables:
        rows = session.execute(
            "SELECT n.nspname, c.relname FROM pg_partition_tree(to_regclass(%s)) t"
            " JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE t.isleaf"
            " UNION SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.oid = to_regclass(%s)",
            [table.name, table.name],
        ).fetchall()
        if not rows:
            raise Refused(f"the backup has no table {table.name}", "choose another backup")
        found |= set(rows)
    return found


def entries_of(folder: Path, server: Server, leaves: set[tuple[str, str]]) -> str:
    """Return the dump's table of contents with the data of these relations alone."""
    with server.connect_anywhere() as session:
        tools = find_tools(session.info.server_version // 10000)
    argv = [tools.program("pg_restore"), "--list", str(folder / "dump")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    lines = (line for line in done.stdout.splitlines() if is_of(line, leaves))
    return "\n".join(lines) + "\n"


ENTRY = re.compile(r"^\d+; \d+ \d+ TABLE DATA (\S+) (.+) (\S+)$")


def is_of(line: str, leaves: set[tuple[str, str]]) -> bool:
    match = ENTRY.match(line)
    return bool(match and (match[1], match[2]) in leaves)


# -- into the staging tables --------------------------------------------------------------------------------
def copy_over(
    session: Session, source: Session, scope: Scope, tables: list[Table], backup: Backup, moment: str
) -> Staged:
    """Make the staging schema with all its rows, in one transaction."""
    now = timezone.now()
    staged = Staged(f"{PREFIX}{now:%Y%m%d_%H%M%S_%f}", scope, str(backup.pk), moment, now)
    with session.transaction():
        session.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(staged.name)))
        about = sql.SQL("COMMENT ON SCHEMA {} IS {}").format(sql.Identifier(staged.name), describe(staged))
        session.execute(about)
        rows = sum(copy_table(session, source, scope, table, staged) for table in tables)
        if not rows:
            raise Refused(f"the backup has no rows of {scope}", "choose another backup, or an earlier moment")
    return staged


def describe(staged: Staged) -> str:
    body = {
        "kind": staged.scope.kind, "name": staged.scope.name, "backup_id": staged.backup_id, "moment": staged.moment,
        "staged_at": staged.staged_at.isoformat(),
    }  # fmt: skip
    return json.dumps(body)


def copy_table(session: Session, source: Session, scope: Scope, table: Table, staged: Staged) -> int:
    """Copy the rows that belong to the scope; return how many. Columns that the backup lacks stay NULL."""
    there = columns_in(source, table)
    columns = sql.SQL(", ").join(sql.Identifier(column) for column in table.columns if column in there)
    target = sql.Identifier(staged.name, table.name)
    session.execute(
        sql.SQL("CREATE TABLE {} AS SELECT {} FROM {} WITH NO DATA").format(
            target, sql.SQL(", ").join(map(sql.Identifier, table.columns)), table.identifier
        )
    )
    read = sql.SQL("COPY (SELECT {} FROM {} WHERE {}) TO STDOUT").format(
        columns, table.identifier, scope.condition(table.name)
    )
    write = sql.SQL("COPY {} ({}) FROM STDIN").format(target, columns)
    with source.cursor().copy(read) as out, session.cursor() as cursor:
        with cursor.copy(write) as into:
            for block in out:
                into.write(block)
        rows = cursor.rowcount
    keys = sql.SQL(", ").join(map(sql.Identifier, table.key))
    session.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(target, keys))
    session.execute(sql.SQL("ANALYZE {}").format(target))
    return rows


def columns_in(source: Session, table: Table) -> set[str]:
    rows = source.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
        [table.name],
    ).fetchall()
    if not rows:
        raise Refused(f"the backup has no table {table.name}", "choose another backup")
    return {name for (name,) in rows}


# -- what is staged -----------------------------------------------------------------------------------------
def list_staged(session: Session) -> list[Staged]:
    """Return the staging schemas, the newest first. One query."""
    rows = session.execute(
        "SELECT nspname, obj_description(oid, 'pg_namespace') FROM pg_namespace"
        " WHERE starts_with(nspname, %s) ORDER BY 1 DESC",
        [PREFIX],
    ).fetchall()
    return [read_staged(name, json.loads(text)) for name, text in rows if text]


def read_staged(name: str, body: dict[str, Any]) -> Staged:
    scope = read_scope(body["kind"], body["name"])
    return Staged(name, scope, body["backup_id"], body["moment"], datetime.fromisoformat(body["staged_at"]))


def find_staged(session: Session, name: str) -> Staged:
    """Return the one of this name, or the newest for "". Raises Refused."""
    found = [staged for staged in list_staged(session) if name in ("", staged.name)]
    if not found:
        raise Refused(
            f"nothing is staged{f' as {name}' if name else ''}", "stage something: `manage.py backup stage`"
        )
    return found[0]


def unstage(session: Session, staged: Staged) -> None:
    """Drop a staging schema. Raises psycopg's errors."""
    session.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(staged.name)))


@contextmanager
def home_session() -> Iterator[Session]:
    """Give a session on our own database. Raises Unreachable, Refused where it is gone."""
    server = home_server()
    with server.connect_anywhere() as session:
        require_database(server, session)
        yield session
