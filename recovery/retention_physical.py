"""Decide which base and incremental backups go, and which WAL. Pure: reads no clock, no disk and no database.

Kept is: what is pinned, the newest N, the newest of each day, week and month as far back as asked, and the anchor of
the point-in-time window: the newest verified backup that ended before it opens. With each of them all that it builds
on. WAL stays from the anchor on; of kept backups before it only what they need themselves, so they restore to their
own end. Nothing goes while no backup is verified, and nothing newer than the newest verified one.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from recovery.retention import Step
from recovery.wal import Segment

DAYS_PER_MONTH = 31


@dataclass(frozen=True)
class Policy:
    """How far back: days of point-in-time recovery; one backup per day, week and month; the newest ones in any case."""

    pitr_days: int = 7
    days: int = 30
    weeks: int = 12
    months: int = 12
    newest: int = 2


@dataclass(frozen=True)
class Physical:
    """One base or incremental backup. `ended_at` None: running or failed. Positions are bytes, the end exclusive."""

    backup_id: UUID
    parent_id: UUID | None
    status: str
    started_at: datetime
    ended_at: datetime | None
    timeline: int = 1
    start_lsn: int = 0
    end_lsn: int = 1
    is_pinned: bool = False
    is_stored: bool = True
    has_wal: bool = False

    @property
    def is_whole(self) -> bool:
        return self.status in ("complete", "verified") and self.is_stored and self.ended_at is not None

    def own_segments(self, segment_bytes: int) -> set[Segment]:
        """Return the WAL that it needs to be consistent."""
        if self.has_wal:
            return set()
        first, last = self.start_lsn // segment_bytes, (self.end_lsn - 1) // segment_bytes
        return {Segment(self.timeline, number) for number in range(first, last + 1)}


@dataclass
class Retention:
    """`steps` has one per backup, newest first. `windowed` are the kept backups from which every later moment can be
    reached; `anchor` None: nothing is verified."""

    steps: list[Step] = field(default_factory=list)
    anchor: Physical | None = None
    windowed: set[UUID] = field(default_factory=set)

    @property
    def kept(self) -> set[UUID]:
        return {step.backup_id for step in self.steps if step.action == "keep"}


def plan_physical(candidates: Iterable[Physical], now: datetime, policy: Policy) -> Retention:
    """Return what to do with each backup. Applied twice, the second plan removes nothing."""
    ordered = sorted(
        candidates, key=lambda found: (found.ended_at or found.started_at, found.backup_id), reverse=True
    )
    by_id = {found.backup_id: found for found in ordered}
    usable = [found for found in ordered if has_chain(found, by_id)]
    proven = [found for found in usable if found.status == "verified"]
    anchor = find_anchor(proven, now, policy)
    reasons = reasons_to_keep(usable, proven, anchor, now, policy) if proven else {}
    for found in ordered:
        if found.is_pinned:
            reasons.setdefault(found.backup_id, "pinned")
    judged = [judge(found, reasons, proven, now, policy) for found in ordered]
    needed = parents_of({step.backup_id for step in judged if step.action == "keep"}, by_id)
    steps = [
        Step("keep", step.backup_id, f"{needed[step.backup_id]} builds on it")
        if step.action != "keep" and step.backup_id in needed
        else step
        for step in judged
    ]
    return Retention(steps, anchor, windowed(ordered, steps, anchor))


def has_chain(found: Physical, by_id: dict[UUID, Physical]) -> bool:
    """Tell whether it and all that it builds on is whole."""
    while found.is_whole:
        if found.parent_id is None:
            return True
        parent = by_id.get(found.parent_id)
        if parent is None:
            return False
        found = parent
    return False


def find_anchor(proven: list[Physical], now: datetime, policy: Policy) -> Physical | None:
    """Return the newest verified backup from before the window; while it is not that old yet, the oldest one."""
    opens = now - timedelta(days=policy.pitr_days)
    before = [found for found in proven if found.ended_at and found.ended_at <= opens]
    return before[0] if before else proven[-1] if proven else None


def reasons_to_keep(
    usable: list[Physical], proven: list[Physical], anchor: Physical | None, now: datetime, policy: Policy
) -> dict[UUID, str]:
    """Return why which backups stay; the first reason counts."""
    reasons: dict[UUID, str] = {}
    for found in proven[: policy.newest]:
        reasons.setdefault(found.backup_id, f"one of the newest {policy.newest}")
    if anchor:
        reasons.setdefault(
            anchor.backup_id, f"anchor of the {policy.pitr_days} days of point-in-time recovery"
        )
    periods: list[tuple[str, int, Callable[[datetime], str]]] = [
        ("daily", policy.days, lambda ended: f"{ended:%Y-%m-%d}"),
        ("weekly", policy.weeks * 7, lambda ended: f"{ended:%G-W%V}"),
        ("monthly", policy.months * DAYS_PER_MONTH, lambda ended: f"{ended:%Y-%m}"),
    ]
    for name, days, key_of in periods:
        for key, found in newest_per_period(usable, now - timedelta(days=days), key_of).items():
            reasons.setdefault(found.backup_id, f"{name} {key}")
    return reasons


def newest_per_period(
    usable: list[Physical], since: datetime, key_of: Callable[[datetime], str]
) -> dict[str, Physical]:
    """Return the newest backup of each period, a verified one where there is one."""
    chosen: dict[str, Physical] = {}
    for found in usable:
        if found.ended_at is None or found.ended_at < since:
            continue
        key = key_of(found.ended_at)
        if key not in chosen or (found.status == "verified" != chosen[key].status):
            chosen[key] = found
    return chosen


def parents_of(kept: set[UUID], by_id: dict[UUID, Physical]) -> dict[UUID, UUID]:
    """Return all that the kept ones build on, each with one that does."""
    needed: dict[UUID, UUID] = {}
    for child in kept:
        found = by_id[child]
        while found.parent_id is not None and found.parent_id in by_id:
            needed[found.parent_id] = child
            found = by_id[found.parent_id]
    return needed


def judge(
    found: Physical, reasons: dict[UUID, str], proven: list[Physical], now: datetime, policy: Policy
) -> Step:
    horizon = now - timedelta(days=policy.days)
    if found.backup_id in reasons:
        return Step("keep", found.backup_id, reasons[found.backup_id])
    if found.status == "running":
        return Step("keep", found.backup_id, "running")
    if found.status == "failed":
        if found.started_at >= horizon:
            return Step("keep", found.backup_id, f"failed less than {policy.days} days ago")
        return Step("forget", found.backup_id, f"failed more than {policy.days} days ago")
    if not proven:
        return Step("keep", found.backup_id, "no backup is verified yet: nothing is removed")
    ended_at = found.ended_at or found.started_at
    if ended_at > (proven[0].ended_at or proven[0].started_at):
        return Step("keep", found.backup_id, "newer than the last verified one")
    if found.status == "damaged" and ended_at >= horizon:
        return Step("keep", found.backup_id, f"damaged: evidence for {policy.days} days")
    return Step(
        "remove", found.backup_id, "not the newest of its day, week or month as far as these are kept"
    )


def windowed(ordered: list[Physical], steps: list[Step], anchor: Physical | None) -> set[UUID]:
    """Return the kept backups whose WAL is kept to now: the anchor and all that ended later, or all without one."""
    kept = {step.backup_id for step in steps if step.action == "keep"}
    since = anchor.ended_at if anchor else None
    return {
        found.backup_id
        for found in ordered
        if found.backup_id in kept and found.is_whole
        and (since is None or (found.ended_at is not None and found.ended_at >= since))
    }  # fmt: skip


def plan_wal(
    retention: Retention, candidates: Iterable[Physical], there: Iterable[Segment], segment_bytes: int
) -> list[Segment]:
    """Return the segments that no kept backup needs. None go while nothing is verified.

    A timeline that began further back than the anchor keeps its WAL too: of every timeline all stays from the lowest
    position that a windowed backup begins at.
    """
    if retention.anchor is None:
        return []
    kept = [found for found in candidates if found.backup_id in retention.kept and found.is_whole]
    inside = [found for found in kept if found.backup_id in retention.windowed]
    since = min((found.start_lsn // segment_bytes for found in inside), default=0)
    own = set[Segment]().union(*(found.own_segments(segment_bytes) for found in kept))
    return sorted(
        (segment for segment in there if segment.number < since and segment not in own),
        key=lambda segment: (segment.number, segment.timeline),
    )
