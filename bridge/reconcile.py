"""Compares PostgreSQL with the buckets that mirror it, and repairs the buckets.

KV is read first, through the leader of its stream (a replica may lag); then PostgreSQL and the outbox in one snapshot.
A key whose outbox row waits is in flight, not wrong. A repair is a compare-and-set on the revision that was read:
whatever moves meanwhile wins, and the key is looked at again. So it may run at any time, beside writers, relays and
itself.
"""

import asyncio
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

import nats.js.errors
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from bridge import fences, setup, topology
from bridge.connection import Client, call
from bridge.delivery import ABSENT, is_conflict
from bridge.fence import shared_fence
from bridge.headers import EXPECTED
from bridge.keys import is_fence
from bridge.kv import value_headers
from bridge.mirrors import MIRRORS, Expected, Mirror, key_of, read_expected, read_page
from bridge.models import Op
from bridge.outbox import Row, pending_keys, record_conflicts
from bridge.publisher import Last, Message, chunks, make_last
from bridge.sources import read_buried
from pg.errors import Refused, Unreachable

PAGE_KEYS = 500
PARALLEL_READS = 100
ANSWER_SECONDS = 5
CALL_SECONDS = 30
ROUNDS = 3
NAMED_KEYS = 20


class Verdict(StrEnum):
    SAME = "same"
    MISSING = "missing"  # PostgreSQL has the key, KV lacks it
    STALE = "stale"  # KV has another value
    EXTRA = "extra"  # KV has a key without a row
    EXPIRED = "expired"  # gone from KV by its time to live
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


@dataclass
class Report:
    """What was found in one bucket. `named` holds the first wrong keys with their verdicts; `left` could not be
    repaired."""

    bucket: str
    found: Counter[str] = field(default_factory=Counter)
    repaired: int = 0
    left: int = 0
    named: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        return sum(self.found[verdict] for verdict in WRONG)

    def as_item(self) -> dict[str, Any]:
        counts = {verdict.value: self.found[verdict] for verdict in Verdict if verdict is not Verdict.SAME}
        compared = sum(self.found.values())
        return {
            "bucket": self.bucket,
            "compared": compared,
            **counts,
            "repaired": self.repaired,
            "left": self.left,
        }


def reconcile(db: BaseDatabaseWrapper, repair: bool) -> list[Report]:
    """Compare every mirrored bucket, and repair it if asked to. `db` is a session of its own (`open_session`).

    Raises Refused when a bucket does not exist or a backup holds the fence, Unreachable without NATS.
    """
    existing = setup.read_found().configs
    reports = [reconcile_bucket(db, mirror, existing, repair) for mirror in MIRRORS]
    return [*reports, *reconcile_fences(db, repair)]


def reconcile_fences(db: BaseDatabaseWrapper, repair: bool) -> list[Report]:
    """Hold the agents' epochs in KV against the registry; return a report only if some are wrong."""
    wrong = fences.find_wrong(db)
    if not wrong:
        return []
    report = Report("AGENT_STATE epochs", Counter({Verdict.STALE: len(wrong)}))
    report.named = [f"{report.bucket} {agent_id}: stale" for agent_id in sorted(wrong)][:NAMED_KEYS]
    report.repaired = fences.repair(wrong) if repair else 0
    report.left = report.wrong - report.repaired
    return [report]


def reconcile_bucket(db: BaseDatabaseWrapper, mirror: Mirror, existing: Any, repair: bool) -> Report:
    if topology.buckets()[mirror.bucket].stream not in existing:
        raise Refused(f"bucket {mirror.bucket} does not exist", "run manage.py bridge setup")
    report = Report(mirror.bucket)
    for keys in pages(db, mirror):
        looks = confirm(db, mirror, examine(db, mirror, keys))
        note(report, looks)
        if repair:
            repair_keys(db, mirror, [look for look in looks if look.verdict in WRONG], report)
    report.left = report.wrong - report.repaired
    return report


def pages(db: BaseDatabaseWrapper, mirror: Mirror) -> Iterator[list[str]]:
    """Give the keys of all rows, then those that only KV has."""
    after: tuple[Any, ...] | None = None
    while identities := read_page(db, mirror, after, PAGE_KEYS):
        yield [key_of(mirror, identity) for identity in identities]
        after = identities[-1]
    for keys in kv_pages(mirror.bucket):
        known = read_expected(db, mirror, keys)
        if alone := [key for key in keys if key not in known]:
            yield alone


def kv_pages(bucket_name: str) -> Iterator[Sequence[str]]:
    """Give the keys of a bucket, deleted ones included, in pages."""
    bucket = topology.buckets()[bucket_name]
    offset = 0
    while True:
        subjects, total = call(lambda client, at=offset: list_subjects(client, bucket, at), CALL_SECONDS)  # type: ignore[misc]
        keys = [key for subject in subjects if not is_fence(key := bucket.key(subject))]
        yield from chunks(keys, PAGE_KEYS)
        offset += len(subjects)
        if not subjects or offset >= total:
            return


async def list_subjects(client: Client, bucket: topology.Bucket, offset: int) -> tuple[list[str], int]:
    """Return one page of a bucket's subjects (the server chooses its size) and how many there are."""
    request = json.dumps({"subjects_filter": bucket.subject(">"), "offset": offset}).encode()
    reply = await client.nc.request(f"$JS.API.STREAM.INFO.{bucket.stream}", request, timeout=CALL_SECONDS)
    answer = json.loads(reply.data)
    if error := answer.get("error"):
        raise Unreachable(f"stream {bucket.stream}: {error.get('description')}", "see nats-server's log")
    subjects = list((answer["state"].get("subjects") or {}).keys())
    return subjects, int(answer.get("total") or len(subjects))


def examine(db: BaseDatabaseWrapper, mirror: Mirror, keys: Sequence[str]) -> list[Look]:
    """Compare some keys: KV first, then PostgreSQL and the outbox in one snapshot. Keys in neither are left out."""
    lasts = call(lambda client: read_leader(client, mirror.bucket, keys), CALL_SECONDS)
    expected, waiting, buried = read_snapshot(db, mirror, keys)
    looks = [
        Look(
            key,
            judge(mirror, expected.get(key), lasts.get(key), key in waiting, buried.get(key, 0)),
            expected.get(key),
            lasts.get(key),
        )
        for key in keys
    ]
    return [
        look for look in looks if look.expected or is_present(look.last) or look.verdict is Verdict.IN_FLIGHT
    ]


def confirm(db: BaseDatabaseWrapper, mirror: Mirror, looks: Sequence[Look]) -> list[Look]:
    """Look again at what seems wrong: KV is read before PostgreSQL, and a key may have moved in between. One that
    moves on is in flight."""
    wrong = {look.key: look for look in looks if look.verdict in WRONG}
    again = examine(db, mirror, list(wrong)) if wrong else []
    settled = [
        replace(look, verdict=Verdict.IN_FLIGHT)
        if look.verdict in WRONG and look.last != wrong[look.key].last
        else look
        for look in again
    ]
    return [look for look in looks if look.key not in wrong] + settled


def read_snapshot(
    db: BaseDatabaseWrapper, mirror: Mirror, keys: Sequence[str]
) -> tuple[dict[str, Expected], set[str], dict[str, int]]:
    """Return the rows of the keys, the keys whose outbox rows wait, and the revisions of those that are gone, as of one
    moment."""
    with db.cursor() as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        return (
            read_expected(db, mirror, keys),
            set(pending_keys(db, mirror.bucket, keys)),
            read_buried(db, mirror.bucket, keys),
        )
    finally:
        with db.cursor() as cursor:
            cursor.execute("ROLLBACK")


async def read_leader(client: Client, bucket_name: str, keys: Sequence[str]) -> dict[str, Last]:
    """Return the newest message of each key that has one, as the stream's leader knows it."""
    bucket, turns = topology.buckets()[bucket_name], asyncio.Semaphore(PARALLEL_READS)

    async def read(key: str) -> Last | None:
        async with turns:
            try:
                found = await client.jetstream.get_last_msg(bucket.stream, bucket.subject(key))
            except nats.js.errors.NotFoundError:
                return None
            return make_last(found.seq, found.headers or {}, found.data or b"")

    found = await asyncio.gather(*(read(key) for key in keys))
    return {key: last for key, last in zip(keys, found, strict=True) if last}


def judge(
    mirror: Mirror, expected: Expected | None, last: Last | None, is_waiting: bool, buried: int
) -> Verdict:
    """Decide what a key is, from what both stores say. `buried`: the revision that a deleted row had, 0 for none."""
    if is_waiting or is_unflushed(mirror, expected, last, buried):
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


def note(report: Report, looks: Sequence[Look]) -> None:
    report.found.update(look.verdict.value for look in looks)
    wrong = [f"{report.bucket} {look.key}: {look.verdict.value}" for look in looks if look.verdict in WRONG]
    report.named += wrong[: NAMED_KEYS - len(report.named)]


def repair_keys(db: BaseDatabaseWrapper, mirror: Mirror, looks: Sequence[Look], report: Report) -> None:
    """Bring wrong keys to what PostgreSQL says. One that moves meanwhile is looked at again, and counts as repaired
    when it is right by then."""
    left = looks
    for _ in range(ROUNDS):
        if left:
            failed = publish_repairs(db, mirror, left)
            left = [look for look in examine(db, mirror, failed) if look.verdict in WRONG]
    report.repaired += len(looks) - len(left)


def publish_repairs(db: BaseDatabaseWrapper, mirror: Mirror, looks: Sequence[Look]) -> list[str]:
    """Publish what the keys should hold, by compare-and-set; return the keys that were not stored."""
    with shared_fence(db) as held:
        if not held:
            raise Refused("a backup holds the fence", "run manage.py bridge reconcile again when it is over")
        record_lost_writes(db, mirror, looks)
        messages = [repair_message(mirror, look) for look in looks]
        outcomes = call(lambda client: client.publisher.publish(messages, ANSWER_SECONDS), CALL_SECONDS)
    return [look.key for look, outcome in zip(looks, outcomes, strict=True) if not outcome.is_stored]


def repair_message(mirror: Mirror, look: Look) -> Message:
    """Return the message for one key. It keeps the Sync-Id that it replaces: a slow publisher of an older outbox row
    must still see that its row is past."""
    last = look.last or ABSENT
    headers = {"Sync-Origin": "reconcile", EXPECTED: str(last.revision)}
    if last.sync_id:
        headers["Sync-Id"] = str(last.sync_id)
    subject = topology.buckets()[mirror.bucket].subject(look.key)
    if look.expected is None:
        return Message(subject, b"", {**headers, "KV-Operation": "DEL"})
    left = look.expected.seconds_left
    headers |= value_headers(None if left is None else max(1, math.ceil(left)))
    return Message(subject, look.expected.payload.encode(), headers)


def record_lost_writes(db: BaseDatabaseWrapper, mirror: Mirror, looks: Sequence[Look]) -> None:
    """Keep the agents' own values that a repair is about to replace."""
    rows = [(as_row(mirror, look), look.last) for look in looks]
    lost = [(row, last) for row, last in rows if last and not last.is_deleted and is_conflict(row, last)]
    if lost:
        record_conflicts(db, lost)


def as_row(mirror: Mirror, look: Look) -> Row:
    """Return the outbox row that would have done the repair (id 0: there is none)."""
    if look.expected is None:
        base_revision = 0 if mirror.is_shared else None
        return Row(0, mirror.bucket, look.key, Op.DELETE, base_revision, None)
    return Row(0, mirror.bucket, look.key, Op.UPDATE, look.expected.base_revision, look.expected.payload)
