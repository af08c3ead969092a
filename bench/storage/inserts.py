"""Rows a second into partitioned tables, against the same table unpartitioned: the ORM's bulk path, and COPY."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from bench.frame import Report
from bench.storage.sql import Session, add_agents, make_flat, one

BATCH = 1000
PEER = "unpartitioned"


@dataclass(frozen=True)
class Kind:
    """How one table is filled. `columns` are COPY's; `values` gives a row's, by its number."""

    table: str
    model: Any
    columns: list[str]
    values: Callable[[int], list[Any]]


def measure(report: Report, session: Session, runs: int, rows: int) -> None:
    for kind in kinds(add_agents(session, 1000)):
        flat = make_flat(session, kind.table)
        session.execute(f"ALTER TABLE {kind.table} DISABLE TRIGGER USER")  # the copy has none
        for _ in range(runs):
            for name, insert in (("orm", insert_orm), ("copy", insert_copy)):
                metric = f"insert_{name}_{kind.table.partition('.')[2]}"
                report.add(
                    metric,
                    rows / timed(session, kind, kind.model._meta.db_table, insert, rows),
                    "rows/s",
                    rows,
                )
                report.add_peer(metric, PEER, rows / timed(session, kind, flat, insert, rows))
        session.execute(f"ALTER TABLE {kind.table} ENABLE TRIGGER USER")
        session.execute(f"TRUNCATE {flat}")


def kinds(agents: list[UUID]) -> list[Kind]:
    from messaging.models import Message
    from pg.uuid7 import uuid7
    from tasks.models import Execution

    def message(number: int) -> list[Any]:
        sender, receiver = agents[number % 1000], agents[number * 7 % 1000]
        payload = {"order": number, "text": f"{number:032d}"}
        return [uuid7(), sender, receiver, "command", f"orders.{number}", payload, datetime.now(UTC)]

    def execution(number: int) -> list[Any]:
        return [uuid7(), uuid4(), agents[number % 1000], 1, datetime.now(UTC), "running"]

    return [
        Kind(
            "messages.log",
            Message,
            ["message_id", "from_agent_id", "to_agent_id", "message_type", "subject", "payload", "sent_at"],
            message,
        ),
        Kind(
            "tasks.executions",
            Execution,
            ["execution_id", "task_id", "agent_id", "execution_attempt", "started_at", "status"],
            execution,
        ),
    ]


def timed(session: Session, kind: Kind, table: str, insert: Callable[..., None], rows: int) -> float:
    """Return the seconds that `rows` rows take, from a clean start."""
    made = [kind.values(number) for number in range(rows)]
    session.execute("CHECKPOINT")
    began = time.perf_counter()
    insert(session, kind, table, made)
    seconds = time.perf_counter() - began
    session.execute(f"TRUNCATE {table}")
    return seconds


def insert_orm(session: Session, kind: Kind, table: str, made: list[list[Any]]) -> None:
    objects = [kind.model(**dict(zip(kind.columns, values, strict=True))) for values in made]
    with pointed_at(kind.model, table):
        kind.model.objects.bulk_create(objects, batch_size=BATCH)


@contextmanager
def pointed_at(model: Any, table: str) -> Iterator[None]:
    """Let the model's inserts go to another table of the same shape."""
    own, model._meta.db_table = model._meta.db_table, table
    try:
        yield
    finally:
        model._meta.db_table = own


def insert_copy(session: Session, kind: Kind, table: str, made: list[list[Any]]) -> None:
    from psycopg.types.json import Jsonb

    with (
        session.cursor() as cursor,
        cursor.copy(f"COPY {table} ({', '.join(kind.columns)}) FROM STDIN") as copy,
    ):
        for values in made:
            copy.write_row([Jsonb(value) if isinstance(value, dict) else value for value in values])
    assert one(session, f"SELECT count(*) FROM {table}") == len(made)
