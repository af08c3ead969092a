"""The catalogue as a picture: chains of backups over time, and the window in which every moment can be restored."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.utils import timezone

from recovery.checks import drill_in_words, in_words, newest_drill, newest_state
from recovery.contents import QUERIES
from recovery.models import ArchiveState, Backup, WalSegment
from recovery.prune import PHYSICAL, plan_retention_of

WIDTH, ROW, TOP, EDGE = 1000, 26, 40, 14
BACKUPS_SHOWN = 500
DRAWN = (*PHYSICAL, Backup.Kind.CROSS_SYSTEM)
RADIUS: dict[str, int] = {Backup.Kind.BASE: 7, Backup.Kind.INCREMENTAL: 4, Backup.Kind.CROSS_SYSTEM: 5}


@dataclass(frozen=True)
class Mark:
    """One backup. `tone` is its status, for the colour."""

    x: int
    y: int
    radius: int
    tone: str
    title: str
    backup_id: UUID


@dataclass(frozen=True)
class Line:
    """From a backup to what it builds on, or a stretch of time."""

    x1: int
    y1: int
    x2: int
    y2: int
    title: str = ""


@dataclass
class Picture:
    """In units of WIDTH; `window` None: no moment but the backups' own ends can be restored."""

    height: int
    since: datetime
    until: datetime
    marks: list[Mark] = field(default_factory=list)
    links: list[Line] = field(default_factory=list)
    gaps: list[Line] = field(default_factory=list)
    window: Line | None = None

    def x(self, moment: datetime) -> int:
        """Return where a moment lies, from left to right."""
        span = max((self.until - self.since).total_seconds(), 1)
        share = min(max((moment - self.since).total_seconds() / span, 0), 1)
        return EDGE + round(share * (WIDTH - 2 * EDGE))


def draw(
    backups: Iterable[Backup],
    state: ArchiveState | None,
    broken: Iterable[tuple[str, datetime]],
    windowed: set[UUID],
    now: datetime,
) -> Picture | None:
    """Return the picture of the finished backups but for logical ones; None where there is none. Pure.

    `broken` are missing or damaged segments with the time of the last commit before each.
    """
    shown = sorted((b for b in backups if b.kind in DRAWN and b.completed_at), key=ended)
    if not shown:
        return None
    rows = rows_of(shown)
    picture = Picture(TOP + ROW * (max(rows.values()) + 1), ended(shown[0]) - timedelta(minutes=1), now)
    places = {b.pk: (picture.x(ended(b)), TOP + ROW * rows[b.pk]) for b in shown}
    for b in shown:
        x, y = places[b.pk]
        title = f"{b.kind} {ended(b):%Y-%m-%d %H:%M}, {b.status}, {(b.size_bytes or 0) >> 20} MB"
        picture.marks.append(Mark(x, y, RADIUS[b.kind], b.status, title, b.pk))
        if b.parent_id in places:
            picture.links.append(Line(*places[b.parent_id], x, y))
    opens = min((ended(b) for b in shown if b.pk in windowed and not b.has_wal), default=None)
    if state is not None and state.last_commit_at and opens and opens < state.last_commit_at:
        words = f"any moment from {opens:%Y-%m-%d %H:%M:%S} to {state.last_commit_at:%Y-%m-%d %H:%M:%S} UTC"
        picture.window = Line(picture.x(opens), 14, picture.x(state.last_commit_at), 14, words)
    picture.gaps = [
        Line(picture.x(moment), 6, picture.x(moment), 22, f"{name} is missing or damaged")
        for name, moment in broken
    ]
    return picture


def ended(backup: Backup) -> datetime:
    return backup.completed_at or backup.started_at


def rows_of(shown: list[Backup]) -> dict[UUID, int]:
    """Return each backup's row: a chain has one of its own, the newest chains on top, at most eight of them apart."""
    chains: dict[UUID, UUID] = {}
    for backup in shown:
        chains[backup.pk] = chains.get(backup.parent_id, backup.pk) if backup.parent_id else backup.pk
    order = list(dict.fromkeys(chains[backup.pk] for backup in reversed(shown)))
    return {backup.pk: min(order.index(chains[backup.pk]), 7) for backup in shown}


def overview() -> dict[str, Any]:
    """Return what the page of backups shows above its list. A handful of queries."""
    backups = list(Backup.objects.all()[:BACKUPS_SHOWN])
    state, drill, now = newest_state(), newest_drill(), timezone.now()
    windowed = plan_retention_of(backups, now).windowed
    return {
        "picture": draw(backups, state, broken_segments(), windowed, now),
        "drilled": f"{in_words(now - drill.test_started_at)} ago: {drill_in_words(drill)}"
        if drill
        else "never",
        "archived": state,
        "behind": in_words(now - state.last_commit_at) if state and state.last_commit_at else "",
        "running": [backup for backup in backups if backup.status == Backup.Status.RUNNING],
        "progress": QUERIES.run("copy_progress"),
    }


def broken_segments() -> list[tuple[str, datetime]]:
    """Return missing and damaged segments with the time of the last commit before each; of at most a hundred."""
    found = []
    for segment in WalSegment.objects.exclude(problem=None)[:100]:
        before = WalSegment.objects.filter(number__lt=segment.number).exclude(last_commit_at=None).first()
        found.append(
            (segment.name, before.last_commit_at if before and before.last_commit_at else segment.archived_at)
        )
    return found
