"""pg_partman on Debian's PostgreSQL 15, with copies of our tables that are partitioned by their time."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from bench.storage.sql import Session, one
from cockpit.servers import Postgres, Running, postgres

PROGRAMS = Path("/usr/lib/postgresql/15/bin")
EXTENSION = Path("/usr/share/postgresql/15/extension/pg_partman.control")
TIMES = {
    "agents.lifecycle_events": "created_at",
    "agents.state_history": "changed_at",
    "tasks.executions": "started_at",
    "messages.log": "sent_at",
    "messages.deliveries": "created_at",
}
COLUMNS = """
SELECT a.attname, COALESCE(NULLIF(t.typbasetype, 0), t.oid)::regtype::text AS base, t.typtype, t.typname,
       a.attnum = ANY (p.partattrs::int2[]) AS is_key
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_partitioned_table p ON p.partrelid = a.attrelid
WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
INDEXES = "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = %s::regclass AND NOT indisunique"
KEYS = """
SELECT pg_get_constraintdef(oid) FROM pg_constraint
WHERE conrelid = %s::regclass AND contype = 'f' AND conparentid = 0
"""


class Debian15(Postgres):
    """The server of the package postgresql-15: older than some of our settings and options."""

    initdb_options = tuple(
        option for option in postgres.INITDB if not option.startswith(("--locale-", "--builtin"))
    )
    defaults: Mapping[str, str] = {
        name: value for name, value in postgres.SETTINGS.items() if name != "summarize_wal"
    }

    def major(self) -> str:
        return "15"

    def programs(self) -> Path:
        return PROGRAMS


@dataclass(frozen=True)
class Peer:
    """A server whose tables pg_partman keeps."""

    dsn: str
    agent: Any
    session: Session

    def maintain(self, ahead_days: int, keep_days: int) -> None:
        self.session.execute(
            "UPDATE partman.part_config SET premake = %s, retention = %s",
            [ahead_days, f"{keep_days} days"],
        )
        self.session.execute("CALL partman.run_maintenance_proc()")

    def count_partitions(self, table: str) -> int:
        return int(
            one(self.session, "SELECT count(*) FROM pg_inherits WHERE inhparent = %s::regclass", [table])
        )


@contextmanager
def server(home: Path, ours: Session, tables: list[str], days: int, ahead_days: int) -> Iterator[Peer | None]:
    """Start it, with `days` partitions of each table; None, and a word why, where the package is missing."""
    if not (EXTENSION.exists() and (PROGRAMS / "postgres").exists()):
        print("pg_partman: not run, postgresql-15-partman is not installed: make bench-deps")
        yield None
        return
    folder = home / "partman"
    folder.mkdir(mode=0o711)
    running = Running(
        Debian15(folder, settings={"shared_buffers": "256MB", "max_locks_per_transaction": "256"})
    )
    with running, psycopg.connect(running.server.url(), autocommit=True) as session:
        yield fill(ours, session, running.server.url(), tables, days, ahead_days)


def fill(ours: Session, session: Session, dsn: str, tables: list[str], days: int, ahead_days: int) -> Peer:
    session.execute("CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman")
    for schema in sorted({table.partition(".")[0] for table in tables}):
        session.execute(f"CREATE SCHEMA {schema}")
    session.execute("CREATE TABLE agents.registry (agent_id uuid PRIMARY KEY, agent_name text)")
    session.execute("CREATE TABLE messages.channels (channel_id uuid PRIMARY KEY)")
    agent = session.execute(
        "INSERT INTO agents.registry VALUES (gen_random_uuid(), 'one') RETURNING agent_id"
    )
    for table in tables:
        for statement in copy_statements(ours, table):
            session.execute(statement)
        session.execute(
            "SELECT partman.create_parent(%s, %s, 'native', 'daily', p_premake := %s,"
            " p_start_partition := (current_date - %s::int)::text, p_jobmon := false)",
            [table, TIMES[table], ahead_days, days - ahead_days - 1],
        )
    session.execute(
        "UPDATE partman.part_config SET retention_keep_table = false, infinite_time_partitions = true"
    )
    return Peer(dsn, agent.fetchone()[0], session)  # type: ignore[index]


def copy_statements(ours: Session, table: str) -> Iterator[str]:
    """Yield the DDL of a copy: columns, indexes and foreign keys are ours; enums and domains are their base types."""
    columns = []
    for name, base, kind, type_name, is_key in ours.execute(COLUMNS, [table]).fetchall():
        if kind == "e":  # index definitions name it
            yield (
                f"DO $do$ BEGIN CREATE DOMAIN {type_name} AS text;"
                " EXCEPTION WHEN duplicate_object THEN NULL; END $do$"
            )
            base = type_name
        default = " DEFAULT gen_random_uuid()" if is_key else " DEFAULT now()" if name == TIMES[table] else ""
        columns.append(f"{name} {base}{default}")
        if is_key:
            key = name
    time = TIMES[table]
    yield (
        f"CREATE TABLE {table} ({', '.join(columns)}, PRIMARY KEY ({key}, {time})) PARTITION BY RANGE ({time})"
    )
    for (definition,) in ours.execute(INDEXES, [table]).fetchall():
        yield definition.replace(" ON ONLY ", " ON ")
    for (definition,) in ours.execute(KEYS, [table]).fetchall():
        yield f"ALTER TABLE {table} ADD {definition}"
