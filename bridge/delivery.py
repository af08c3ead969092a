"""How outbox rows become messages: pure decisions that relay and fast path share, and the two round trips to NATS."""

import asyncio
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from bridge import topology
from bridge.connection import Client
from bridge.headers import EXPECTED, OPERATION, SYNC_ID, SYNC_ORIGIN, TRACEPARENT, TTL
from bridge.keys import is_fence
from bridge.kv import NEVER, value_headers
from bridge.models import Op
from bridge.newest import Last, read_last, read_sync_ids
from bridge.outbox import Row, Slot
from bridge.publisher import BAD_SUBJECT, TOO_LARGE, Message, Outcome

WAKE_SUBJECT = "bridge.wake"  # core NATS, lossy: tells the relay that something was committed
WORK = b"work"  # a wake-up with it: tasks are ready, for agents whose claims wait; the relay has time
ORIGIN = {SYNC_ORIGIN: "pg"}
ABSENT = Last(0)
TRACE = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def to_message(row: Row, last: Last) -> Message:
    """Return the message that is stored only if `last` is still the newest one there."""
    headers = {**ORIGIN, SYNC_ID: str(row.outbox_id), EXPECTED: str(last.revision)}
    seconds_left = find_seconds_left(row)
    if row.op == Op.DELETE or seconds_left == 0:
        return Message(row.slot.subject, b"", {**headers, OPERATION: "DEL"}, row.slot.stream)
    if row.is_event:
        headers |= {"Nats-Msg-Id": f"{row.key}/{row.outbox_id}", **trace_of(row)}
    elif is_fence(row.key):
        headers[TTL] = NEVER
    return Message(row.slot.subject, row.data, headers | value_headers(seconds_left), row.slot.stream)


def trace_of(row: Row) -> dict[str, str]:
    """Return the header that carries on the trace in which a message was sent; none where it has none."""
    if row.payload is None or f'"{TRACEPARENT}"' not in row.payload:
        return {}
    headers = json.loads(row.payload).get("headers")
    given = headers.get(TRACEPARENT) if isinstance(headers, dict) else None
    return {TRACEPARENT: given} if isinstance(given, str) and TRACE.fullmatch(given) else {}


def find_seconds_left(row: Row) -> int | None:
    """Return the rest of the value's time, rounded up, 0 when it is over; None: it does not expire."""
    return None if row.seconds_left is None else max(0, math.ceil(row.seconds_left))


def is_superseded(row: Row, last: Last) -> bool:
    """Tell whether the slot holds this row or a newer one. For an event that does not mean that it was stored."""
    return last.sync_id >= row.outbox_id


def is_conflict(row: Row, last: Last) -> bool:
    """Tell whether an agent wrote a value that the writer of `row` had not seen."""
    return row.base_revision is not None and last.is_foreign and last.revision > row.base_revision


def read_limits() -> dict[tuple[bool, str], int]:
    """Return the largest value in bytes of every declared stream (True, name) and bucket (False, name)."""
    buckets = {(False, name): bucket.max_value_bytes for name, bucket in topology.buckets().items()}
    return buckets | {(True, name): stream.max_message_bytes for name, stream in topology.streams().items()}


def find_refusal(row: Row, limits: Mapping[tuple[bool, str], int]) -> Outcome | None:
    """Return why no server could ever take this row; None: one might."""
    limit = limits.get((row.is_event, row.target))
    if limit is None:
        return Outcome(code=BAD_SUBJECT, text=f"no bucket or stream {row.target} is declared")
    if len(row.data) > limit:
        return Outcome(code=TOO_LARGE, text=f"{len(row.data)} bytes, {row.target} takes {limit}")
    return None


def is_final(outcome: Outcome) -> bool:
    """Tell whether the same message will be refused for ever."""
    return outcome.code in (TOO_LARGE, BAD_SUBJECT)


async def read_slots(client: Client, slots: Iterable[Slot], timeout_seconds: float) -> dict[Slot, Last]:
    """Return what each slot holds (ABSENT: nothing). May lag on a cluster; the compare-and-set settles that."""
    by_stream: defaultdict[str, list[str]] = defaultdict(list)
    for slot in slots:
        by_stream[slot.stream].append(slot.subject)
    reads = [read_last(client.nc, stream, names, timeout_seconds) for stream, names in by_stream.items()]
    found = dict(zip(by_stream, await asyncio.gather(*reads), strict=True))
    return {
        Slot(stream, name): found[stream].get(name, ABSENT)
        for stream, names in by_stream.items()
        for name in names
    }


async def read_stored_ids(
    client: Client, slots: Sequence[Slot], timeout_seconds: float
) -> dict[Slot, set[int]]:
    """Return, by slot, the outbox ids of all the events that their streams still hold there."""
    reads = [read_sync_ids(client.nc, slot.stream, slot.subject, timeout_seconds) for slot in slots]
    return dict(zip(slots, await asyncio.gather(*reads), strict=True))


async def publish_rows(
    client: Client, rows: Sequence[Row], lasts: Mapping[Slot, Last], timeout_seconds: float
) -> list[Outcome]:
    """Publish each row by compare-and-set against `lasts`; return the outcomes in the same order."""
    messages = [to_message(row, lasts[row.slot]) for row in rows]
    return await client.publisher.publish(messages, timeout_seconds)
