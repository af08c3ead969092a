"""What our table says of a WAL segment: seen once, read whole, and again when its turn comes."""

import logging
from datetime import UTC, datetime

from django.utils import timezone

from recovery.errors import Damaged
from recovery.models import Backup, RestorePoint, WalSegment
from recovery.tools import Tools
from recovery.wal import Archive, Segment
from recovery.waldump import scan_commits

log = logging.getLogger(__name__)
READ_AGAIN = 5  # segments per run, the ones that were read longest ago first
MISSING = "missing"


def see(
    archive: Archive,
    tools: Tools,
    needed: dict[Segment, Backup],
    there: set[Segment],
    read_all: bool,
) -> tuple[dict[Segment, WalSegment], int]:
    """Return each needed segment's row, up to date; and how many were read whole."""
    size = archive.segment_bytes
    known = WalSegment.objects.in_bulk([segment.name(size) for segment in needed])
    oldest = sorted(known.values(), key=lambda row: row.checked_at)[:READ_AGAIN]
    again = {row.name for row in oldest if row.checked_at.date() < timezone.now().date()}
    rows, read = {}, 0
    for segment in needed:
        name = segment.name(size)
        row = known.get(name)
        if segment not in there:
            row = absent(segment, archive, row)
        elif row is None or read_all or name in again or has_changed(archive, row):
            read += 1
            row = read_segment(segment, archive, tools)
        rows[segment] = row
    return rows, read


def has_changed(archive: Archive, row: WalSegment) -> bool:
    """Tell whether the file is another than the one that was seen, or was bad and may have been mended."""
    return bool(row.problem) or archive.path(row.name).stat().st_size != row.stored_bytes


def absent(segment: Segment, archive: Archive, known: WalSegment | None) -> WalSegment:
    if known is not None and known.problem == MISSING:
        return known
    now = timezone.now()
    row = WalSegment(
        name=segment.name(archive.segment_bytes), timeline=segment.timeline, number=segment.number,
        segment_bytes=archive.segment_bytes, stored_bytes=0, archived_at=now, checked_at=now, problem=MISSING,
    )  # fmt: skip
    return keep_row(row)


def read_segment(segment: Segment, archive: Archive, tools: Tools) -> WalSegment:
    """Read a segment whole; return its saved row."""
    name = segment.name(archive.segment_bytes)
    stat = archive.path(name).stat()
    row = WalSegment(
        name=name, timeline=segment.timeline, number=segment.number, segment_bytes=archive.segment_bytes,
        stored_bytes=stat.st_size, archived_at=datetime.fromtimestamp(stat.st_mtime, UTC), checked_at=timezone.now(),
    )  # fmt: skip
    try:
        scan = scan_commits(tools, name, archive.read(name))
    except (Damaged, OSError) as error:
        row.problem = str(error)
        return keep_row(row)
    row.first_commit_at, row.last_commit_at = scan.first_commit_at, scan.last_commit_at
    for point, lsn in scan.points:
        RestorePoint.objects.get_or_create(
            name=point, timeline=segment.timeline, lsn=lsn, defaults={"segment": name}
        )
    return keep_row(row)


def keep_row(row: WalSegment) -> WalSegment:
    fields = [field.attname for field in WalSegment._meta.concrete_fields if not field.primary_key]
    WalSegment.objects.bulk_create([row], update_conflicts=True, unique_fields=["name"], update_fields=fields)
    if row.problem:
        log.error("WAL archive: segment %s: %s", row.name, row.problem)
    return row
