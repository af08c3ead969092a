"""What the parts share: a session, WAL between two moments, agents to point to, a schema of copies."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

Session = psycopg.Connection[Any]
# what the guide's indexes are measured on, and copies of tables
SCHEMA = "bench"


def connect(dsn: str) -> Session:
    session = psycopg.connect(dsn, autocommit=True)
    session.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
    return session


def one(session: Session, query: str, parameters: Any = None) -> Any:
    """Return the first column of the first row."""
    return session.execute(query, parameters).fetchone()[0]  # type: ignore[index]


def add_agents(session: Session, number: int) -> list[Any]:
    """Return the ids of `number` new agents, for foreign keys."""
    rows = session.execute(
        "INSERT INTO agents.registry (agent_type, agent_name)"
        " SELECT 'bench', 'agent ' || n FROM generate_series(1, %s) n RETURNING agent_id::uuid",
        [number],
    )
    return [row[0] for row in rows]


@contextmanager
def without_triggers(session: Session) -> Iterator[None]:
    """No trigger and no foreign key acts on what this session does."""
    session.execute("SET session_replication_role = replica")
    try:
        yield
    finally:
        session.execute("RESET session_replication_role")


@contextmanager
def without_page_images(session: Session) -> Iterator[None]:
    """How much WAL a row writes must not depend on when the last checkpoint was."""
    session.execute("ALTER SYSTEM SET full_page_writes = off")
    session.execute("SELECT pg_reload_conf()")
    wait_for_setting(session, "full_page_writes", "off")
    try:
        yield
    finally:
        session.execute("ALTER SYSTEM RESET full_page_writes")
        session.execute("SELECT pg_reload_conf()")


def wait_for_setting(session: Session, name: str, value: str) -> None:
    while one(session, "SELECT current_setting(%s)", [name]) != value:
        session.execute("SELECT pg_sleep(0.01)")


def wal_bytes(session: Session, table: str, work: Callable[[], None]) -> int:
    """Return the WAL that `work` writes, what it left in the GIN indexes' pending lists included."""
    clean_pending_lists(session, table)
    before = one(session, "SELECT pg_current_wal_insert_lsn()")
    work()
    clean_pending_lists(session, table)
    return int(one(session, "SELECT pg_current_wal_insert_lsn() - %s::pg_lsn", [before]))


def clean_pending_lists(session: Session, table: str) -> None:
    session.execute(
        """
        SELECT gin_clean_pending_list(x.indexrelid) FROM pg_partition_tree(%s) t
        JOIN pg_index x ON x.indrelid = t.relid JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_am a ON a.oid = i.relam
        WHERE t.isleaf AND a.amname = 'gin'
        """,
        [table],
    )


def explain_ms(session: Session, query: str, parameters: Any) -> float:
    """Return the planning and execution time of a query, as the server has it."""
    found = one(session, f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {query}", parameters)
    report = (found if isinstance(found, list) else json.loads(found))[0]
    return float(report["Planning Time"] + report["Execution Time"])


def make_flat(session: Session, table: str) -> str:
    """Make an unpartitioned table like `table`: columns, checks, indexes, foreign keys. Return its quoted name."""
    flat = SQL("{}.{}").format(Identifier(SCHEMA), Identifier(table))
    session.execute(SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(flat, SQL(table)))
    keys = session.execute(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'f'"
        " AND conparentid = 0",
        [table],
    ).fetchall()
    for (definition,) in keys:
        session.execute(SQL("ALTER TABLE {} ADD {}").format(flat, SQL(definition)))
    return f'"{SCHEMA}"."{table}"'
