"""Where a target lies in what is archived, and whether a restore from a backup gets there."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from recovery.errors import Damaged, NotReachable
from recovery.models import Backup, RestorePoint
from recovery.target import Target
from recovery.tools import Tools
from recovery.wal import Archive, Segment, lsn_text, parse_lsn
from recovery.waldump import find_commit, last_record, newest_commit, scan_commits

Found = tuple[dict[str, str], int | None]


@dataclass(frozen=True)
class Way:
    """What can be replayed from a backup: `covered` without a gap, then `missing` ones."""

    backup: Backup
    archive: Archive
    tools: Tools
    covered: Sequence[Segment]
    missing: Sequence[Segment]

    def name(self, segment: Segment) -> str:
        return segment.name(self.archive.segment_bytes)

    @property
    def gap(self) -> str:
        return f"; WAL segment {self.name(self.missing[0])} is missing" if self.missing else ""

    def last_lsn(self) -> int:
        """Return where the last whole record begins. Raises NotReachable when there is none after the backup's end."""
        for segment in reversed(self.covered):
            name = self.name(segment)
            if (found := last_record(self.tools, name, self.archive.read(name))) is not None:
                return found
        raise NotReachable("nothing is archived yet")


def find_latest(way: Way, target: Target) -> Found:
    """The end of the archive, as a position: without one a gap would look like the end."""
    if way.missing:
        raise NotReachable(
            f"WAL segment {way.name(way.missing[0])} is missing: what came after it is lost",
            f"take what there is before it, if you must: --lsn {lsn_text(way.last_lsn())}",
        )
    lsn = way.last_lsn()
    return {"recovery_target_lsn": lsn_text(lsn)}, lsn


def find_end(way: Way, target: Target) -> Found:
    return {"recovery_target": "immediate"}, None


def find_time(way: Way, target: Target) -> Found:
    moment, ended_at = target.moment, way.backup.completed_at or timezone.now()
    if moment > timezone.now():
        raise NotReachable("the target is in the future")
    if moment < ended_at:
        raise NotReachable(f"it ended later, at {ended_at.isoformat()}")
    newest = newest_commit(way.tools, way.archive, way.covered)
    if newest is None or newest <= moment:  # the replay stops at the first commit after the target
        until = newest.isoformat() if newest else "none"
        raise NotReachable(f"the newest commit that is archived is of {until}{way.gap}")
    return {"recovery_target_time": moment.isoformat()}, None


def find_lsn(way: Way, target: Target) -> Found:
    try:
        lsn = parse_lsn(target.value)
    except ValueError as error:
        raise NotReachable(f"{target.value}: not a position in WAL", "write 0/3000028") from error
    return {"recovery_target_lsn": lsn_text(lsn)}, require_between(way, lsn)


def require_between(way: Way, lsn: int) -> int:
    """Return a position that lies after the backup's end, and before the last archived record's end."""
    if lsn < (way.backup.end_lsn or 0):
        raise NotReachable(f"it ended later, at {lsn_text(way.backup.end_lsn or 0)}")
    if lsn > (last := way.last_lsn()):
        raise NotReachable(f"WAL is archived up to {lsn_text(last)}{way.gap}")
    return lsn


def find_name(way: Way, target: Target) -> Found:
    """The replay stops at the first point of this name, so there may be one only."""
    found = [lsn for lsn in known_points(way, target.value) if lsn >= (way.backup.start_lsn or 0)]
    if not found:
        raise NotReachable(f"no restore point {target.value!r} is archived{way.gap}")
    if len(found) > 1:
        places = ", ".join(lsn_text(lsn) for lsn in found)
        raise NotReachable(
            f"restore point {target.value!r} was made {len(found)} times: {places}", "give one as --lsn"
        )
    return {"recovery_target_name": target.value}, require_between(way, found[0])


def known_points(way: Way, name: str) -> list[int]:
    """Return where restore points of this name lie in the covered segments: from the table, else from all of them."""
    covered = {way.name(segment): segment for segment in way.covered}
    try:
        rows = RestorePoint.objects.filter(name=name, segment__in=covered).order_by("lsn")
        if found := [row.lsn for row in rows]:
            return found
    except (DatabaseError, InterfaceError):
        pass
    scans = (scan_commits(way.tools, segment, way.archive.read(segment)) for segment in covered)
    return [lsn for scan in scans for point, lsn in scan.points if point == name]


def find_xid(way: Way, target: Target) -> Found:
    if not target.value.isdigit():
        raise NotReachable(f"{target.value}: not a transaction id")
    for segment in reversed(way.covered):
        name = way.name(segment)
        lsn = find_commit(way.tools, name, way.archive.read(name), int(target.value) % (1 << 32))
        if lsn is not None:
            xid = str(int(target.value) % (1 << 32))
            return {"recovery_target_xid": xid}, require_between(way, lsn)
    raise NotReachable(f"no commit of transaction {target.value} is archived{way.gap}")


def look_for(target: Target, archive: Archive, tools: Tools) -> int | None:
    """Return where in the archive a name or transaction lies, whatever leads there; None: nowhere. Reads each segment,
    the newest first, once in the life of the process."""
    there = archive.segments() if archive.segment_bytes else ()
    for segment in sorted(there, key=lambda found: (found.number, found.timeline), reverse=True):
        if (lsn := look_in(target, archive, tools, segment.name(archive.segment_bytes))) is not None:
            return lsn
    return None


@lru_cache(maxsize=1 << 16)
def look_in(target: Target, archive: Archive, tools: Tools, name: str) -> int | None:
    try:
        raw = archive.read(name)
    except Damaged:  # told by whoever looks at the archive, and by the restore that needs it
        return None
    if target.kind == "xid":
        return find_commit(tools, name, raw, int(target.value) % (1 << 32))
    points = scan_commits(tools, name, raw).points
    return next((lsn for point, lsn in points if point == target.value), None)


FINDERS = {
    "latest": find_latest,
    "end": find_end,
    "time": find_time,
    "lsn": find_lsn,
    "name": find_name,
    "xid": find_xid,
}
