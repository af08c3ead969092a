"""Compares keys of a bucket with the rows they mirror.

KV is read first, through the leader of its stream (a replica may lag); then PostgreSQL and the outbox in one snapshot.
A key whose outbox row waits is in flight, not wrong.
"""

import asyncio
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

import nats.js.errors
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from bridge import setup, topology
from bridge.changes import read_revision
from bridge.connection import Client, call
from bridge.dead_letters import read_set_apart
from bridge.mirrors import Expected, Mirror, read_expected
from bridge.newest import Last, make_last
from bridge.outbox import pending_keys
from bridge.sources import read_buried

PARALLEL_READS = 100
CALL_SECONDS = 30
NOTHING: Mapping[str, int] = {}


class Verdict(StrEnum):
    SAME = "same"
    MISSING = "missing"  # PostgreSQL has the key, KV lacks it
    STALE = "stale"  # KV has another value
    EXTRA = "extra"  # KV has a key without a row
    EXPIRED = "expired"  # gone from KV by its time to live
    SET_APART = "set_apart"  # an agent's write that could not be applied waits for somebody's decision
    IN_FLIGHT = (
        "in_flight"  # an outbox row waits, or is in quarantine; or an agent's write is not flushed yet
    )


WRONG = (Verdict.MISSING, Verdict.STALE, Verdict.EXTRA)


@dataclass(frozen=True)
class Look:
    """One key in both stores. `expected` None: no row; `last` None: KV never had it, or it expired."""

    key: str
    verdict: Verdict
    expected: Expected | None
    last: Last | None


@dataclass(frozen=True)
class Snapshot:
    """What PostgreSQL says of some keys at one moment. `waiting`: their outbox rows wait; `buried`: the revision that a
    deleted row had; `apart`: that of a write which was set apart."""

    expected: Mapping[str, Expected]
    waiting: Collection[str]
    buried: Mapping[str, int]
    apart: Mapping[str, int]


def examine(
    db: BaseDatabaseWrapper, mirror: Mirror, keys: Sequence[str], settled: Mapping[str, int] = NOTHING
) -> list[Look]:
    """Compare some keys: KV first, then PostgreSQL and the outbox in one snapshot. Keys in neither are left out.
    `settled`: revisions of which the flusher was already known to be done."""
    lasts = call(lambda client: read_leader(client, mirror.bucket, keys), CALL_SECONDS)
    snapshot = read_snapshot(db, mirror, keys)
    looks = [
        Look(
            key,
            judge(mirror, key, snapshot, lasts.get(key), settled.get(key, 0)),
            snapshot.expected.get(key),
            lasts.get(key),
        )
        for key in keys
    ]
    return [
        look for look in looks if look.expected or is_present(look.last) or look.verdict is Verdict.IN_FLIGHT
    ]


def confirm(db: BaseDatabaseWrapper, mirror: Mirror, looks: Sequence[Look]) -> list[Look]:
    """Look again at what seems wrong: KV is read before PostgreSQL, and a key may have moved in between. One that
    moves on is in flight. And at agents' writes that seem not flushed: the flusher may be done with them, without a
    trace in PostgreSQL (what was set apart and then dropped)."""
    settled = read_settled(mirror, [look.key for look in looks if look.verdict is Verdict.IN_FLIGHT])
    looked = [look for look in looks if look.key not in settled] + examine(db, mirror, list(settled), settled)
    wrong = {look.key: look for look in looked if look.verdict in WRONG}
    again = examine(db, mirror, list(wrong), settled) if wrong else []
    return [look for look in looked if look.key not in wrong] + [
        replace(look, verdict=Verdict.IN_FLIGHT)
        if look.verdict in WRONG and look.last != wrong[look.key].last
        else look
        for look in again
    ]


def read_settled(mirror: Mirror, keys: Sequence[str]) -> dict[str, int]:
    """Return the keys whose newest write in the FLUSH stream is acknowledged, with its revision. Read before
    PostgreSQL: what is acknowledged is committed."""
    if not mirror.is_shared or not keys:
        return {}
    return call(lambda client: read_acknowledged(client, mirror.bucket, keys), CALL_SECONDS)


async def read_acknowledged(client: Client, bucket_name: str, keys: Sequence[str]) -> dict[str, int]:
    flush, bucket = topology.flushes()[bucket_name], topology.buckets()[bucket_name]
    stream, source = await setup.read_info(client, flush.stream), await setup.read_info(client, bucket.stream)
    consumer = await setup.read_consumer(client, setup.flusher_of(flush))
    if not (stream and source and consumer and consumer.ack_floor):
        return {}
    if topology.flush_epoch(stream.config) != topology.epoch_of(source.created):
        return {}  # the stream of a former bucket: its revisions mean other writes
    done = consumer.ack_floor.stream_seq
    found = await read_newest(client, flush.stream, [bucket.subject(key) for key in keys])
    return {
        key: read_revision(message.headers or {})
        for key in keys
        if (message := found.get(bucket.subject(key))) and message.seq <= done
    }


def read_snapshot(db: BaseDatabaseWrapper, mirror: Mirror, keys: Sequence[str]) -> Snapshot:
    with db.cursor() as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        return Snapshot(
            read_expected(db, mirror, keys),
            pending_keys(db, mirror.bucket, keys).keys(),
            read_buried(db, mirror.bucket, keys),
            read_set_apart(db, mirror.bucket, keys),
        )
    finally:
        with db.cursor() as cursor:
            cursor.execute("ROLLBACK")


async def read_leader(client: Client, bucket_name: str, keys: Sequence[str]) -> dict[str, Last]:
    """Return the newest message of each key that has one, as the stream's leader knows it."""
    bucket = topology.buckets()[bucket_name]
    found = await read_newest(client, bucket.stream, [bucket.subject(key) for key in keys])
    return {
        bucket.key(subject): make_last(message.seq, message.headers or {}, message.data or b"")
        for subject, message in found.items()
    }


async def read_newest(client: Client, stream: str, subjects: Sequence[str]) -> dict[str, Any]:
    """Return the newest message of each subject that has one, from the stream's leader."""
    turns = asyncio.Semaphore(PARALLEL_READS)

    async def read(subject: str) -> Any:
        async with turns:
            try:
                return await client.jetstream.get_last_msg(stream, subject)
            except nats.js.errors.NotFoundError:
                return None

    found = await asyncio.gather(*(read(subject) for subject in subjects))
    return {subject: message for subject, message in zip(subjects, found, strict=True) if message}


def judge(mirror: Mirror, key: str, snapshot: Snapshot, last: Last | None, settled: int = 0) -> Verdict:
    """Decide what a key is, from what both stores say."""
    expected = snapshot.expected.get(key)
    if key in snapshot.waiting:
        return Verdict.IN_FLIGHT
    if is_unflushed(mirror, expected, last, snapshot.buried.get(key, 0)):
        revision = last.revision if last else 0
        if revision <= snapshot.apart.get(key, 0):
            return Verdict.SET_APART
        if revision > settled:
            return Verdict.IN_FLIGHT
    if expected is None:
        return Verdict.EXTRA if is_present(last) else Verdict.SAME
    if is_over(expected):  # the purge deletes the row, and with it what KV may still have
        return Verdict.IN_FLIGHT if is_present(last) else Verdict.EXPIRED
    if last is None:
        return Verdict.EXPIRED if is_past_ttl(mirror, expected) else Verdict.MISSING
    if last.is_deleted:
        return Verdict.MISSING
    return Verdict.SAME if is_same_json(expected.payload, last.data) else Verdict.STALE


def is_unflushed(mirror: Mirror, expected: Expected | None, last: Last | None, buried: int) -> bool:
    """Tell whether the flusher has still to bring an agent's write to PostgreSQL."""
    seen = max(expected.base_revision or 0 if expected else 0, buried)
    return mirror.is_shared and last is not None and last.is_foreign and last.revision > seen


def is_present(last: Last | None) -> bool:
    return last is not None and not last.is_deleted


def is_over(expected: Expected) -> bool:
    """Tell whether the row's own time has run out."""
    return expected.seconds_left is not None and expected.seconds_left <= 0


def is_past_ttl(mirror: Mirror, expected: Expected) -> bool:
    """Tell whether the value had time to expire since its row last changed."""
    ttl_seconds = topology.buckets()[mirror.bucket].ttl_seconds
    return ttl_seconds is not None and expected.changed_at < timezone.now() - timedelta(seconds=ttl_seconds)


def is_same_json(text: str, data: bytes) -> bool:
    """Compare two JSON texts by content; what is not JSON equals nothing."""
    if text.encode() == data:
        return True
    try:
        return canonical(text) == canonical(data)
    except ValueError:
        return False


def canonical(text: str | bytes) -> str:
    return json.dumps(json.loads(text, parse_float=Decimal), sort_keys=True, default=repr)
