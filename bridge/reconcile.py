"""Compares PostgreSQL with the buckets that mirror it, and repairs the buckets.

A repair is a compare-and-set on the revision that was read: whatever moves meanwhile wins, and the key is looked at
again. So it may run at any time, beside writers, relays and itself. bridge/comparing.py says what is wrong.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from bridge import fences, setup, topology
from bridge.comparing import WRONG, Look, Verdict, confirm, examine
from bridge.connection import Client, call
from bridge.delivery import ABSENT, is_conflict
from bridge.fence import FENCED, shared_fence
from bridge.headers import EXPECTED
from bridge.keys import is_fence
from bridge.kv import value_headers
from bridge.mirrors import MIRRORS, Mirror, key_of, read_expected, read_page
from bridge.models import Op
from bridge.newest import chunks
from bridge.outbox import Row, record_conflicts
from bridge.publisher import Message
from pg.errors import Refused, Unreachable

PAGE_KEYS = 500
ANSWER_SECONDS = 5
CALL_SECONDS = 30
ROUNDS = 3
NAMED_KEYS = 20


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


def note(report: Report, looks: Sequence[Look]) -> None:
    report.found.update(look.verdict.value for look in looks)
    named = [look for look in looks if look.verdict in (*WRONG, Verdict.SET_APART)][
        : NAMED_KEYS - len(report.named)
    ]
    report.named += [f"{report.bucket} {look.key}: {look.verdict.value}" for look in named]


def repair_keys(db: BaseDatabaseWrapper, mirror: Mirror, looks: Sequence[Look], report: Report) -> None:
    """Bring wrong keys to what PostgreSQL says. One that moves meanwhile is looked at again, and counts as repaired
    when it is right by then."""
    left = looks
    for _ in range(ROUNDS):
        if left:
            failed = publish_repairs(db, mirror, left)
            left = [
                look for look in confirm(db, mirror, examine(db, mirror, failed)) if look.verdict in WRONG
            ]
    report.repaired += len(looks) - len(left)


def publish_repairs(db: BaseDatabaseWrapper, mirror: Mirror, looks: Sequence[Look]) -> list[str]:
    """Publish what the keys should hold, by compare-and-set; return the keys that were not stored."""
    with shared_fence(db) as held:
        if not held:
            raise Refused(FENCED, "run manage.py bridge reconcile again when it is over; doctor: bridge.hold")
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
