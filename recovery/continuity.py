"""Look at the WAL archive each minute: is every segment there that the kept backups need, and is it what its name says?

New segments are read whole (checksum, header) and for their commits, known ones are looked up by size, and the few that
were read longest ago are read again: a flipped bit is found before it is needed. What is seen goes into
recovery.wal_segments and recovery.archive_state, which validate_recovery_readiness and the pages read.
"""

import logging
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from recovery import catalogue
from recovery.models import ArchiveState, Backup, RestorePoint, Timeline, WalSegment
from recovery.pitr import usable
from recovery.prune import plan_retention_of
from recovery.segment_rows import see
from recovery.tools import find_tools
from recovery.wal import Archive, Histories, Segment, needed_segments, open_archive

log = logging.getLogger(__name__)


@dataclass
class Look:
    """What one run saw. `archived_lsn` and `last_commit_at` are the latest that a restore would reach; `read` segments
    were read whole."""

    archive: Archive
    needed: int = 0
    read: int = 0
    timeline: int = 0
    archived_lsn: int = 0
    last_commit_at: datetime | None = None
    problems: list[str] = field(default_factory=list)


def look_at_archive(read_all: bool = False) -> Look:
    """Look once; return what was found, with one line per problem. `read_all` reads every segment again.

    Safe beside itself and when killed: each segment's row says what was seen of it. Nothing is archived yet, or there
    is no backup: nothing is needed, and there is no problem. Raises Damaged where the archive cannot be read at all.
    """
    archive = open_archive()
    look = Look(archive)
    backups = [
        backup
        for backup in usable(catalogue.load_all()[0])
        if not backup.has_wal and backup.system_identifier == archive.system_identifier
    ]
    if not archive.segment_bytes or not backups:
        return look
    histories, there = archive.histories(), archive.segments()
    keep_timelines(histories)
    windowed = plan_retention_of(backups, timezone.now()).windowed
    needed = needed_by([*backups, *cross_ones(archive)], windowed, histories, archive, there)
    tools = find_tools(int(backups[0].server_version.partition(".")[0]))
    rows, look.read = see(archive, tools, needed, there, read_all)
    judge(look, backups, histories, needed, rows)
    forget(needed)
    keep_state(look)
    return look


def cross_ones(archive: Archive) -> list[Backup]:
    """Return the finished cross-system backups: they need the WAL up to their moment."""
    return [
        backup
        for backup in catalogue.load_all()[0]
        if backup.kind == Backup.Kind.CROSS_SYSTEM
        and backup.completed_at is not None
        and backup.system_identifier == archive.system_identifier
    ]


def needed_by(
    backups: Iterable[Backup],
    windowed: Collection[UUID],
    histories: Histories,
    archive: Archive,
    there: set[Segment],
) -> dict[Segment, Backup]:
    """Return the segments that the backups need, in order, each with the oldest backup that does."""
    needed: dict[Segment, Backup] = {}
    for backup in sorted(backups, key=lambda found: found.start_lsn or 0):
        for segment in wanted_segments(backup, backup.pk in windowed, histories, archive, there):
            needed.setdefault(segment, backup)
    return dict(sorted(needed.items(), key=lambda item: (item[0].number, item[0].timeline)))


def wanted_segments(
    backup: Backup, is_windowed: bool, histories: Histories, archive: Archive, there: set[Segment]
) -> Iterator[Segment]:
    """Yield what a restore from the backup to now reads; of one before the window, what itself needs."""
    timeline, start, end = backup.timeline or 1, backup.start_lsn or 0, backup.end_lsn or 1
    size = archive.segment_bytes
    own = [Segment(timeline, number) for number in range(start // size, (end - 1) // size + 1)]
    if is_windowed:
        spans = histories.path(timeline, start, histories.newest(timeline, end))
        yield from dict.fromkeys([*own, *needed_segments(spans, size, there)])
    else:
        yield from own


# -- judging ------------------------------------------------------------------------------------------------
def judge(
    look: Look,
    backups: list[Backup],
    histories: Histories,
    needed: dict[Segment, Backup],
    rows: dict[Segment, WalSegment],
) -> None:
    """Fill in the problems, and how far on the newest timeline some backup can be restored."""
    newest = max(backups, key=lambda backup: backup.end_lsn or 0)
    look.needed = len(needed)
    look.timeline = histories.newest(newest.timeline or 1, newest.end_lsn or 0)
    look.problems = [
        f"{row.name}: {row.problem}; backups from {needed[segment].started_at:%Y-%m-%d %H:%M} on do not get past it"
        for segment, row in rows.items()
        if row.problem
    ]
    reached = [reach_of(backup, look, histories, rows) for backup in backups]
    look.archived_lsn = max(lsn for lsn, _ in reached)
    look.last_commit_at = max((moment for _, moment in reached if moment), default=None)


def reach_of(
    backup: Backup, look: Look, histories: Histories, rows: dict[Segment, WalSegment]
) -> tuple[int, datetime | None]:
    """Return how far a restore from the backup gets on the newest timeline: the position, the newest commit."""
    size, lsn, moment = look.archive.segment_bytes, 0, None
    for segment in needed_segments(
        histories.path(backup.timeline or 1, backup.start_lsn or 0, look.timeline), size, set(rows)
    ):
        row = rows.get(segment)
        if row is None or row.problem:
            break
        lsn, moment = (segment.number + 1) * size, row.last_commit_at or moment
    return lsn, moment


def forget(needed: dict[Segment, Backup]) -> None:
    """Drop the rows of segments that no backup needs any more."""
    if needed:
        oldest = min(segment.number for segment in needed)
        WalSegment.objects.filter(number__lt=oldest).delete()
        RestorePoint.objects.exclude(segment__in=WalSegment.objects.values("name")).delete()


def keep_timelines(histories: Histories) -> None:
    rows = [
        Timeline(timeline=timeline, parent=parent, switch_lsn=lsn)
        for timeline, (parent, lsn) in histories.parents().items()
    ]
    Timeline.objects.bulk_create(rows, ignore_conflicts=True)


def keep_state(look: Look) -> None:
    with transaction.atomic():
        ArchiveState.objects.update_or_create(
            system_identifier=look.archive.system_identifier,
            defaults={
                "timeline": look.timeline,
                "segment_bytes": look.archive.segment_bytes,
                "checked_at": timezone.now(),
                "archived_lsn": look.archived_lsn,
                "last_commit_at": look.last_commit_at,
                "problems": look.problems,
            },
        )
