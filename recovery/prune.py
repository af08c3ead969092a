"""Apply the retention plans to the backup folder, the WAL archive and the catalogue."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

from django.conf import settings
from django.db import DatabaseError, InterfaceError

from pg.errors import Refused
from recovery import catalogue, manifest
from recovery.models import Backup
from recovery.retention import Candidate, Step, plan_retention
from recovery.retention_physical import Physical, Policy, Retention, plan_physical, plan_wal
from recovery.server import exclusive, home_server, require_database
from recovery.store_retention import doom_unknown, doom_wal, stored_segments
from recovery.tidying import tidy
from recovery.wal import Segment, lsn_text, open_archive

IN_USE = "somebody restores from it now"
log = logging.getLogger(__name__)
MANY = 5  # a night removes one or two
PHYSICAL = (Backup.Kind.BASE, Backup.Kind.INCREMENTAL)


def plan_prune(now: datetime) -> list[Step]:
    """Return what `prune` would do now, one step per backup, the newest first. Changes nothing."""
    return plan_for(catalogue.load_all()[0], now)


def prune(now: datetime, force: bool = False) -> list[Step]:
    """Remove what the plan says; return the steps that were done, with those kept. Raises Busy, and Refused
    while our own database is gone (then every backup may be needed), or when unusually many would go, unless `force`d.

    Safe twice, and when killed: a backup is renamed away before its files go, children before what they build on, and
    WAL last; the next run ends what was begun. One that is being restored from stays until next time, and with it what
    it builds on and its WAL.
    """
    server = home_server()
    with exclusive(server) as session:
        require_database(server, session)
        backups = {backup.pk: backup for backup in tidy()}
        steps, in_use = [], set()
        plan = plan_for(list(backups.values()), now)
        if not force:
            require_few(plan, now)
        for step in plan:
            if step.action != "keep" and step.backup_id in in_use:
                step = Step("keep", step.backup_id, "what builds on it is being restored from now")
            done = apply(step, backups[step.backup_id])
            if done.action == "keep" and (parent_id := backups[step.backup_id].parent_id):
                in_use.add(parent_id)
            steps.append(done)
        with table_may_be_gone():
            doom_unknown({backup.pk for backup in catalogue.load_all()[0]}, now)
        if not in_use_now(steps):
            prune_wal(now)
    return steps


@contextmanager
def table_may_be_gone() -> Iterator[None]:
    """Go on where recovery.uploads cannot be read (a database without our schema): then the store keeps what it has,
    and the next run dooms it."""
    try:
        yield
    except (DatabaseError, InterfaceError) as error:
        log.warning("what was pruned here stays in the store for now: %s", str(error).strip())


def require_few(steps: list[Step], now: datetime) -> None:
    """Raise Refused when more than MANY and a third of all would go: a clock jumped, or settings have a slip."""
    gone = sum(step.action == "remove" for step in steps)
    if gone > MANY and gone * 3 > len(steps):
        raise Refused(
            f"{gone} of {len(steps)} backups would be removed at once: nothing was removed",
            f"is the clock right ({now:%Y-%m-%d %H:%M} UTC)? see `manage.py backup prune --dry-run`, then --force",
        )


def in_use_now(steps: list[Step]) -> bool:
    return any(step.why == IN_USE for step in steps)


def plan_for(backups: list[Backup], now: datetime) -> list[Step]:
    candidates = [
        Candidate(backup.pk, backup.status, backup.started_at, backup.is_pinned, catalogue.is_kept(backup))
        for backup in backups
        if backup.kind == Backup.Kind.LOGICAL
    ]
    steps = plan_retention(candidates, now, settings.BACKUP_LOGICAL_KEEP_DAYS)
    return steps + plan_retention_of_cross(backups, now).steps + plan_retention_of(backups, now).steps


def plan_retention_of(backups: Iterable[Backup], now: datetime) -> Retention:
    """Return the plan for the base and incremental ones among `backups`; what a kept cross-system one needs stays."""
    found = list(backups)
    return plan_physical(physical_ones(found, now), now, policy())


def physical_ones(backups: list[Backup], now: datetime) -> list[Physical]:
    carrying = {backup.parent_id for backup in kept_cross(backups, now)}
    return [
        replace(as_physical(backup), is_pinned=backup.is_pinned or backup.pk in carrying)
        for backup in backups
        if backup.kind in PHYSICAL
    ]


def plan_retention_of_cross(backups: Iterable[Backup], now: datetime) -> Retention:
    """Return the plan for the cross-system ones: by the same days, weeks and months, apart from the others, so that one
    of them never takes the place of a backup from which a restore is quicker."""
    found = [as_physical(backup) for backup in backups if backup.kind == Backup.Kind.CROSS_SYSTEM]
    return plan_physical([replace(each, parent_id=None) for each in found], now, policy())


def kept_cross(backups: list[Backup], now: datetime) -> list[Backup]:
    kept = plan_retention_of_cross(backups, now).kept
    return [backup for backup in backups if backup.kind == Backup.Kind.CROSS_SYSTEM and backup.pk in kept]


def policy() -> Policy:
    return Policy(
        pitr_days=settings.BACKUP_PITR_DAYS,
        days=settings.BACKUP_KEEP_DAYS,
        weeks=settings.BACKUP_KEEP_WEEKS,
        months=settings.BACKUP_KEEP_MONTHS,
        newest=settings.BACKUP_KEEP_NEWEST,
    )


def as_physical(backup: Backup) -> Physical:
    return Physical(
        backup.pk, backup.parent_id, backup.status, backup.started_at, backup.completed_at, backup.timeline or 1,
        backup.start_lsn or 0, backup.end_lsn or 1, backup.is_pinned, catalogue.is_kept(backup), backup.has_wal,
    )  # fmt: skip


def apply(step: Step, backup: Backup) -> Step:
    """Do one step; return it, or a `keep` when the backup is in use."""
    if step.action == "forget":
        catalogue.forget(backup)
    elif step.action == "remove":
        return remove(step, backup)
    return step


def remove(step: Step, backup: Backup) -> Step:
    folder = catalogue.folder_of(backup)
    if not folder.exists():
        catalogue.forget(backup)
        return step
    with catalogue.in_use(folder, exclusively=True) as is_ours:
        if not is_ours:
            return Step("keep", step.backup_id, IN_USE)
        log.info("removing backup %s: %s", backup.pk, step.why)
        catalogue.remove(backup)
    return step


# -- WAL ----------------------------------------------------------------------------------------------------
def plan_wal_prune(now: datetime, of_store: bool = False) -> list[Segment]:
    """Return the archived segments that no kept backup needs, or those `of_store`. Histories and everything of other
    servers stay."""
    archive = open_archive()
    if not archive.segment_bytes:
        return []
    ours = [b for b in catalogue.load_all()[0] if b.system_identifier == archive.system_identifier]
    physical, size = physical_ones(ours, now), archive.segment_bytes
    there = stored_segments(size) if of_store else archive.segments()
    segments = plan_wal(plan_physical(physical, now, policy()), physical, there, size)
    needed = set[Segment]().union(*(as_physical(b).own_segments(size) for b in kept_cross(ours, now)))
    return [segment for segment in segments if segment not in needed]


def prune_wal(now: datetime) -> int:
    """Remove the segments of the plan, the oldest first; return how many. After the backups: stopped anywhere, every
    backup that is left has its WAL. Safe twice. Hold the recovery lock."""
    archive, folders = open_archive(), set()
    with table_may_be_gone():
        doom_wal(plan_wal_prune(now, of_store=True), archive.segment_bytes, now)
    segments = plan_wal_prune(now)
    if not segments:
        return 0
    for segment in segments:
        path = archive.path(segment.name(archive.segment_bytes))
        path.unlink(missing_ok=True)
        folders.add(path.parent)
    for folder in folders:
        manifest.sync_folder(folder)
    until = (segments[-1].number + 1) * archive.segment_bytes
    log.info("removed %s WAL segments before %s: no kept backup needs them", len(segments), lsn_text(until))
    return len(segments)
