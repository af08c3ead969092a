"""The relay's rate, beside the same client that publishes the same messages with no PostgreSQL.

Twice: each message by itself, as any client does, and in the same atomic batches as the relay.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bench.frame import Report
from bench.frame.servers import Installation
from bench.sync.stores import clear, connect, make_rows
from bridge.connection import call
from bridge.delivery import read_slots, to_message
from bridge.newest import Last, chunks
from bridge.outbox import Row, read_rows
from bridge.relay import BATCH_ROWS, Memory, relay_batch
from bridge.runner import RELAY_SETTINGS
from bridge.session import keep_statements, open_session


def measure(report: Report, found: Installation) -> None:
    number = report.rows(10_000, 1_000)
    clear(found)
    make_rows(found, 20, number // 20)
    touch(found)
    with open_session(RELAY_SETTINGS) as db:
        keep_statements(db)
        memory = Memory()
        relay_all(db, memory)  # now every key is there, and known to the relay
        touch(found)
        rows = read_rows(db, number)
        seconds = relay_all(db, memory)
    report.add("relay_rate", len(rows) / seconds, "rows/s", len(rows))
    report.add_peer("relay_rate", "publish alone", len(rows) / publish_all(rows, is_batched=False))
    report.add("relay_rate_batched", len(rows) / seconds, "rows/s", len(rows))
    report.add_peer("relay_rate_batched", "batches alone", len(rows) / publish_all(rows, is_batched=True))


def touch(found: Installation) -> None:
    with connect(found) as session:
        session.execute(
            "UPDATE agents.state SET state_value = jsonb_set(state_value, '{n}', %s::jsonb)",
            [str(random.randrange(10**9))],
        )


def relay_all(db: Any, memory: Memory) -> float:
    """Return the seconds until the outbox is empty."""
    began = time.perf_counter()
    while relay_batch(db, memory).read:
        pass
    return time.perf_counter() - began


def publish_all(rows: Sequence[Row], is_batched: bool) -> float:
    """Publish the same messages on the revisions that are there now; return the seconds."""
    lasts = dict(zip(rows, revisions(rows), strict=True))
    messages = [to_message(row, Last(lasts[row])) for row in rows]
    if not is_batched:
        messages = [replace(message, stream="") for message in messages]
    began = time.perf_counter()
    for some in chunks(messages, BATCH_ROWS):
        publish(some)
    return time.perf_counter() - began


def publish(messages: Any) -> None:
    outcomes = call(lambda client: client.publisher.publish(messages, 10), 60)
    assert all(outcome.is_stored for outcome in outcomes), next(o for o in outcomes if not o.is_stored)


def revisions(rows: Sequence[Row]) -> list[int]:
    lasts: dict[Any, Last] = {}
    for some in chunks([row.slot for row in rows], BATCH_ROWS):
        lasts |= call(lambda client, some=some: read_slots(client, some, 10), 30)  # type: ignore[misc]
    return [lasts[row.slot].revision for row in rows]
