"""Plan a restore of the whole server to one moment, and refuse what would silently give another one.

PostgreSQL itself is content with less: without a target it takes the first missing segment for the end of history,
and a target before the backup's end for reached. So every plan names a position, and every segment up to it is there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from django.conf import settings

from recovery import catalogue
from recovery.catalogue import Status
from recovery.chain import chain_of
from recovery.errors import Damaged, NotReachable, UnknownBackup
from recovery.models import Backup
from recovery.reaching import (
    FINDERS,
    Way,
)
from recovery.target import Target
from recovery.tools import Tools, find_tools
from recovery.wal import Archive, Histories, Segment, needed_segments, open_archive

PHYSICAL = (Backup.Kind.BASE, Backup.Kind.INCREMENTAL)
CHOOSE = "choose another target or backup: `manage.py backup list`, `manage.py backup wal`"


@dataclass(frozen=True)
class Recovery:
    """A restore that will reach its target. `settings` are PostgreSQL's; `segments` what it replays, as far as is
    known. `stop_lsn` None: a time or transaction, whose position only the replay knows."""

    chain: list[Backup]
    target: Target
    timeline: int
    segments: list[Segment]
    settings: dict[str, str]
    stop_lsn: int | None
    archive: Archive
    tools: Tools
    warnings: list[str] = field(default_factory=list)

    @property
    def backup(self) -> Backup:
        return self.chain[-1]

    @property
    def needed_bytes(self) -> int:
        """How much room the data directory takes at most: the database, or all its parts, and WAL while it replays."""
        return room_of(self.chain)


def room_of(chain: Sequence[Backup]) -> int:
    """Return how many bytes the data directory of a restored chain takes at most."""
    return chain[-1].database_bytes + sum(part.size_bytes or 0 for part in chain) + (256 << 20)


def plan_recovery(target: Target, wanted: str = "") -> Recovery:
    """Return how to restore to `target` from the backup `wanted` (an id or its beginning), by default the newest one
    that reaches it. Changes nothing; works without any database.

    Raises NotReachable with every backup's reason, UnknownBackup, UnfitTools, Damaged.
    """
    backups, warnings = catalogue.load_all()
    candidates = [catalogue.find(wanted, PHYSICAL)[0]] if wanted else usable(backups)
    if not candidates:
        raise UnknownBackup(
            "there is no base backup here", f"make one: `manage.py backup base`{fetchable(backups)}"
        )
    archive = open_archive()
    histories, there = archive.histories(), archive.segments() if archive.segment_bytes else set()
    reasons = []
    for backup in candidates:
        try:
            plan = reach(backup, backups, target, archive, histories, there)
        except (NotReachable, Damaged) as error:
            reasons.append(f"{backup.pk}: {error}")
            continue
        plan.warnings.extend(warnings)
        return plan
    raise NotReachable(f"{target} cannot be reached. " + "; ".join(reasons[:3]), CHOOSE + fetchable(backups))


def fetchable(backups: list[Backup]) -> str:
    """Return the end of a hint, where the store may have more than the backup folder."""
    if settings.BACKUP_STORE_URL and not all(
        catalogue.is_stored(backup) for backup in usable_anywhere(backups)
    ):
        return "; or bring one back from the store: `manage.py backup fetch`"
    return "; the store may have more: `manage.py backup fetch --list`" if settings.BACKUP_STORE_URL else ""


def usable(backups: list[Backup]) -> list[Backup]:
    """Return the finished physical backups that are there, the newest first."""
    return [backup for backup in usable_anywhere(backups) if catalogue.is_stored(backup)]


def usable_anywhere(backups: list[Backup]) -> list[Backup]:
    """The same of those that lie in the store alone."""
    return [
        backup
        for backup in backups
        if backup.kind in PHYSICAL and backup.status in (Status.COMPLETE, Status.VERIFIED)
    ]


def reach(
    backup: Backup,
    backups: list[Backup],
    target: Target,
    archive: Archive,
    histories: Histories,
    there: set[Segment],
) -> Recovery:
    """Return the plan from this backup. Raises NotReachable, Damaged when a part of its chain is gone."""
    if backup.status not in (Status.COMPLETE, Status.VERIFIED):
        raise NotReachable(f"it is {backup.status}: {backup.error or 'not finished'}")
    tools = exact_tools(backup)
    chain = chain_of(backup, backups)
    is_archived = bool(archive.segment_bytes) and backup.system_identifier == archive.system_identifier
    if not is_archived or (backup.has_wal and target.kind == "end"):
        return from_itself(chain, target, archive, tools)
    timeline, start, end = backup.timeline or 1, backup.start_lsn or 0, backup.end_lsn or 0
    chosen = target.timeline or histories.newest(timeline, end)
    spans = histories.path(timeline, start, chosen)
    if not spans or (spans[0].until or end) < end:
        raise NotReachable(f"timeline {chosen} does not go on from it")
    needed = list(needed_segments(spans, archive.segment_bytes, there))
    missing = [segment for segment in needed if segment not in there]
    covered = needed[: needed.index(missing[0])] if missing else needed
    if (len(covered) + start // archive.segment_bytes) * archive.segment_bytes < end:
        gap = (missing or [Segment(timeline, start // archive.segment_bytes)])[0].name(archive.segment_bytes)
        raise NotReachable(f"WAL segment {gap}, which it needs itself, is not archived")
    way = Way(backup, archive, tools, covered, missing)
    settings, stop_lsn = FINDERS[target.kind](way, target)
    return Recovery(chain, target, chosen, covered, {**settings, "recovery_target_timeline": str(chosen)},
                    stop_lsn, archive, tools)  # fmt: skip


def exact_tools(backup: Backup) -> Tools:
    """Return the programs of the backup's own major version: only they read its files. Raises NotReachable."""
    major = int(backup.server_version.partition(".")[0])
    tools = find_tools(major)
    if tools.major != major:
        raise NotReachable(f"it is of PostgreSQL {major}, the programs in {tools.folder} are of {tools.version}",
                           f"install PostgreSQL {major} and set PG_BIN_DIR to its bin folder")  # fmt: skip
    tools.require("postgres", "pg_controldata", "pg_waldump", "pg_amcheck")
    return tools


def from_itself(chain: list[Backup], target: Target, archive: Archive, tools: Tools) -> Recovery:
    """Return the plan of a backup that has no archive: to its own end, nothing later."""
    backup = chain[-1]
    if not backup.has_wal:
        raise NotReachable("its WAL archive is not here")
    if target.kind not in ("latest", "end"):
        raise NotReachable("its WAL was not archived: it restores to its own end only")
    warnings = [f"WAL was not archived: what came after {backup.completed_at} is not in it"]
    settings = {"recovery_target": "immediate", "recovery_target_timeline": "current"}
    return Recovery(
        chain, target, backup.timeline or 1, [], settings, backup.end_lsn, archive, tools, warnings
    )


# -- in words -----------------------------------------------------------------------------------------------
def steps_of(plan: Recovery, directory: str) -> list[dict[str, str]]:
    """Return the plan's steps: action, object, why."""
    segments = len(plan.segments)
    steps = [
        ("check", str(part.pk), f"every file of the {part.kind} backup against its manifest")
        for part in plan.chain
    ]
    room = f"{len(plan.chain)} backups into a new data directory, at most {plan.needed_bytes >> 20} MB"
    steps += [
        ("copy", directory, room),
        ("replay", f"timeline {plan.timeline}", f"to {plan.target}; {segments} WAL segments are there without a gap"),
        ("prove", "the restored server", "target reached, pg_amcheck, our consistency rules, row counts"),
        ("stop", directory, "start it yourself; it archives to where its settings say, on a new timeline"),
    ]  # fmt: skip
    return [dict(zip(("action", "object", "why"), step, strict=True)) for step in steps]
