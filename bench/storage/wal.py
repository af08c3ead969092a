"""Bytes of WAL a row: our indexes against the guide's, triggers off; and what triggers, identity and outbox add."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import psycopg

from bench.frame import Report
from bench.storage.sql import SCHEMA, Session, one, wal_bytes, without_page_images, without_triggers

GUIDE = Path(__file__).parents[2] / "docs" / "spec" / "guide.sql"
PEER = "the guide's indexes"
STATEMENT_ROWS = 100  # as the flusher and bulk enqueuing write


@dataclass(frozen=True)
class Kind:
    """One kind of write. `write` runs a statement of STATEMENT_ROWS rows on the table that it is given."""

    metric: str
    table: str
    key: str
    partitions: str
    leaves: list[str]
    write: Callable[[Session, str, Random], None]


KINDS = [
    Kind(
        "wal_state_update",
        "agents.state",
        "agent_id, state_key",
        "HASH (agent_id)",
        [f"FOR VALUES WITH (MODULUS 8, REMAINDER {n})" for n in range(8)],
        lambda session, table, random: update_state(session, table, random),
    ),
    Kind(
        "wal_queue_insert",
        "tasks.queue",
        "task_id, task_type",
        "LIST (task_type)",
        ["FOR VALUES IN ('bench')"],
        lambda session, table, random: insert_tasks(session, table, random),
    ),
    Kind(
        "wal_log_insert",
        "messages.log",
        "message_id",
        "RANGE (message_id)",
        ["FOR VALUES FROM (MINVALUE) TO (MAXVALUE)"],
        lambda session, table, random: insert_messages(session, table, random),
    ),
]


def measure(report: Report, session: Session, runs: int, rows: int) -> None:
    session.execute("SELECT partitions.create_task_type_partition('bench')")
    agents = rows // 4
    fill_state(session, agents)
    for kind in KINDS:
        copy, refused = make_guide_copy(session, kind)
        report.settings[f"{kind.metric}_refused"] = refused
        if kind.table == "agents.state":
            columns = "agent_id, state_key, state_value, created_at"
            session.execute(f"INSERT INTO {copy} ({columns}) SELECT {columns} FROM agents.state")
        with without_page_images(session):
            for run in range(runs):
                measure_kind(report, session, kind, copy, rows, run)


def measure_kind(report: Report, session: Session, kind: Kind, copy: str, rows: int, run: int) -> None:
    def bytes_per_row(table: str) -> float:
        random = Random(run)
        statements = rows // STATEMENT_ROWS

        def work() -> None:
            for _ in range(statements):
                kind.write(session, table, random)

        return wal_bytes(session, table, work) / (statements * STATEMENT_ROWS)

    with without_triggers(session):
        report.add(kind.metric, bytes_per_row(kind.table), "B/row", rows, "triggers off")
        report.add_peer(kind.metric, PEER, bytes_per_row(copy))
    bare = report.metrics[kind.metric].samples[-1]
    whole = bytes_per_row(kind.table)
    report.add(f"{kind.metric}_whole", whole, "B/row", rows, "with triggers, identity, outbox")
    report.add_peer(f"{kind.metric}_whole", "triggers off", bare)
    session.execute("TRUNCATE bridge.outbox")


# -- the guide's own ----------------------------------------------------------------------------------------
def make_guide_copy(session: Session, kind: Kind) -> tuple[str, list[str]]:
    """Make the table with the guide's indexes and PostgreSQL's default fillfactor; return its name, and the indexes
    that PostgreSQL refuses."""
    name = f"{SCHEMA}.guide_{kind.table.partition('.')[2]}"
    session.execute(
        f"CREATE TABLE {name} (LIKE {kind.table} INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING CONSTRAINTS,"
        f" PRIMARY KEY ({kind.key})) PARTITION BY {kind.partitions}"
    )
    for number, bound in enumerate(kind.leaves):
        session.execute(f"CREATE TABLE {name}_{number} PARTITION OF {name} {bound}")
    refused = []
    for index, rest in guide_indexes(kind.table):
        try:
            session.execute(f"CREATE INDEX {index} ON {name} {rest}")
        except psycopg.Error:
            refused.append(index)
    return name, refused


def guide_indexes(table: str) -> list[tuple[str, str]]:
    """Return name and definition of the indexes that the guide wants on a table, in its order."""
    text = GUIDE.read_text("utf-8")
    found = re.findall(rf"^CREATE INDEX (\w+) ON {re.escape(table)}\b\s*(.*?);", text, re.M | re.S)
    return [(index, rest) for index, rest in found]


# -- writes -------------------------------------------------------------------------------------------------
def fill_state(session: Session, agents: int) -> None:
    """Four keys for each agent, as they would be after a start."""
    with without_triggers(session):
        session.execute(
            "INSERT INTO agents.registry (agent_id, agent_type, agent_name)"
            " SELECT partitions.uuid7(), 'state', 'agent ' || n FROM generate_series(1, %s) n",
            [agents],
        )
        session.execute(
            "INSERT INTO agents.state (agent_id, state_key, state_value)"
            " SELECT agent_id, 'key ' || k, jsonb_build_object('step', 0, 'text', md5(agent_id::text))"
            " FROM agents.registry, generate_series(1, 4) k WHERE agent_type = 'state'"
        )
    session.execute(
        "CREATE TABLE bench.owners AS SELECT row_number() OVER () AS n, agent_id::uuid FROM agents.registry"
        " WHERE agent_type = 'state'"
    )
    session.execute("ALTER TABLE bench.owners ADD PRIMARY KEY (n)")
    session.execute("VACUUM ANALYZE agents.state, agents.registry, bench.owners")


def owners(session: Session, random: Random) -> list[Any]:
    total = one(session, "SELECT max(n) FROM bench.owners")
    chosen = random.sample(range(1, total + 1), STATEMENT_ROWS)
    rows = session.execute("SELECT agent_id FROM bench.owners WHERE n = ANY(%s)", [chosen])
    return [row[0] for row in rows]


def update_state(session: Session, table: str, random: Random) -> None:
    session.execute(
        f"UPDATE {table} SET state_value = jsonb_build_object('step', %s::int, 'text', md5(random()::text)),"
        " version = version + 1, updated_at = clock_timestamp() WHERE state_key = 'key 1' AND agent_id = ANY(%s)",
        [random.randrange(1 << 30), owners(session, random)],
    )


def insert_tasks(session: Session, table: str, random: Random) -> None:
    session.execute(
        f"INSERT INTO {table} (task_type, task_name, payload, status, priority)"
        " SELECT 'bench', 'task ' || n, jsonb_build_object('order', n, 'text', md5(random()::text)), 'queued', 'normal'"
        " FROM generate_series(1, %s) n",
        [STATEMENT_ROWS],
    )


def insert_messages(session: Session, table: str, random: Random) -> None:
    session.execute(
        f"INSERT INTO {table} (from_agent_id, to_agent_id, message_type, subject, payload)"
        " SELECT a, a, 'command', 'orders', jsonb_build_object('order', 1, 'text', md5(random()::text))"
        " FROM unnest(%s::uuid[]) a",
        [owners(session, random)],
    )
