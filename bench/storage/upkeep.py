"""Upkeep of five tables with 400 partitions each, and what a writer beside it feels; pg_partman in the same run.

Each run is two weeks of neglect: 14 partitions of each table to make and 14 to drop.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Event, Thread
from typing import Any

import psycopg

from bench.frame import Report
from bench.frame.servers import Installation
from bench.storage import partman
from bench.storage.sql import Session, add_agents, one

DAYS, AHEAD_DAYS, NEGLECTED_DAYS = 400, 14, 14
PEER = "pg_partman run_maintenance_proc"
# one row each; they fit our tables and the copies
WRITES = {
    "agents.lifecycle_events": "(agent_id, event_type) VALUES (%(agent)s, 'note')",
    "agents.state_history": "(agent_id, state_key, version, kv_revision) VALUES (%(agent)s, 'key', 1, 1)",
    "tasks.executions": "(task_id, agent_id) VALUES (gen_random_uuid(), %(agent)s)",
    "messages.log": "(from_agent_id, to_agent_id, message_type) VALUES (%(agent)s, %(agent)s, 'command')",
    "messages.deliveries": "(message_id, agent_id, next_at) VALUES (gen_random_uuid(), %(agent)s, now())",
}
TOUCH = "UPDATE agents.registry SET agent_name = agent_name WHERE agent_id = %(agent)s"


@dataclass
class Writer:
    """One session that writes to each table in turn, and to the one that foreign keys lead to."""

    dsn: str
    agent: Any
    longest_ms: float = 0
    written: int = 0
    errors: list[str] = field(default_factory=list)

    def run(self, stop: Event) -> None:
        statements = [f"INSERT INTO {table} {values}" for table, values in WRITES.items()] + [TOUCH]
        with psycopg.connect(self.dsn, autocommit=True) as session:
            while not stop.is_set():
                for statement in statements:
                    self.write(session, statement)

    def write(self, session: Session, statement: str) -> None:
        began = time.perf_counter()
        try:
            session.execute(statement, {"agent": self.agent})
        except psycopg.Error as error:
            self.errors.append(str(error))
        self.longest_ms = max(self.longest_ms, (time.perf_counter() - began) * 1000)
        self.written += 1


@contextmanager
def writing(dsn: str, agent: Any) -> Iterator[Writer]:
    writer, stop = Writer(dsn, agent), Event()
    thread = Thread(target=writer.run, args=[stop])
    thread.start()
    try:
        yield writer
    finally:
        stop.set()
        thread.join()


def measure(report: Report, session: Session, found: Installation, runs: int) -> None:
    days = DAYS if not report.is_quick else 60
    agent = add_agents(session, 1)[0]
    prepare(session, days)
    with partman.server(found.home, session, list(WRITES), days, AHEAD_DAYS) as peer:
        for run in range(1, runs + 1):
            add_run(report, found.dsn, agent, days, lambda run=run: upkeep(run))
            if peer:
                shifted = NEGLECTED_DAYS * run
                with_peer(
                    report,
                    peer,
                    lambda shifted=shifted: peer.maintain(
                        AHEAD_DAYS + shifted, days - AHEAD_DAYS - 1 - shifted
                    ),
                )
            left = {table: count_partitions(session, table) for table in WRITES}
            assert set(left.values()) == {days}, left


def add_run(report: Report, dsn: str, agent: Any, days: int, work: Callable[[], str]) -> None:
    with writing(dsn, agent) as writer:
        began = time.perf_counter()
        done = work()
        seconds = time.perf_counter() - began
    assert not writer.errors, writer.errors[:3]
    report.add("upkeep_seconds", seconds, "s", days * len(WRITES), done)
    report.add("upkeep_writer_wait", writer.longest_ms, "ms", writer.written, "the longest of all writes")


def with_peer(report: Report, peer: partman.Peer, work: Callable[[], None]) -> None:
    with writing(peer.dsn, peer.agent) as writer:
        began = time.perf_counter()
        work()
        seconds = time.perf_counter() - began
    left = {table: peer.count_partitions(table) for table in WRITES}
    print(f"pg_partman: {left}")
    if writer.errors:
        print(f"pg_partman: {len(writer.errors)} writes failed: {writer.errors[0]}")
    report.add_peer("upkeep_seconds", PEER, seconds)
    report.add_peer("upkeep_writer_wait", PEER, writer.longest_ms)


def prepare(session: Session, days: int) -> None:
    """Give each table `days` partitions, the newest AHEAD_DAYS ahead of today, and the policy that keeps so many."""
    from partitions.models import Policy

    kept = days - AHEAD_DAYS - 1
    changed = Policy.objects.filter(table_name__in=WRITES).update(
        keep_days=kept, make_ahead_days=AHEAD_DAYS, on_expiry="drop", is_overridden=True
    )
    assert changed == len(WRITES)
    today = datetime.now(UTC).date()
    for table in WRITES:
        for first in range(2, kept + 1, 50):
            session.execute(
                "SELECT partitions.create_time_partition(%s, %s::date - n) FROM generate_series(%s::int, %s::int) n",
                [table, today, first, min(first + 49, kept)],
            )
        assert count_partitions(session, table) == days


def count_partitions(session: Session, table: str) -> int:
    return int(one(session, "SELECT count(*) FROM pg_inherits WHERE inhparent = %s::regclass", [table]))


def upkeep(run: int) -> str:
    """Do what is due on a day NEGLECTED_DAYS later; return what was done."""
    from partitions.maintenance import apply_all
    from partitions.plan import Clock

    outcomes = apply_all(Clock.at(datetime.now(UTC) + timedelta(days=NEGLECTED_DAYS * run)), list(WRITES))
    assert not [one for one in outcomes if one.error], [one.error for one in outcomes if one.error][:3]
    actions = [one.step.action for one in outcomes]
    return ", ".join(f"{actions.count(action)} {action}" for action in ("create", "detach", "drop"))
