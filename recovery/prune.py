"""Apply the retention plan to the backup folder and the catalogue."""

import logging
from datetime import datetime

from django.conf import settings

from recovery import catalogue
from recovery.models import Backup
from recovery.retention import Candidate, Step, plan_retention
from recovery.server import exclusive, home_server, require_database

log = logging.getLogger(__name__)


def plan_prune(now: datetime) -> list[Step]:
    """Return what `prune` would do now, one step per logical backup. Changes nothing."""
    return plan_for(catalogue.load_all()[0], now)


def prune(now: datetime) -> list[Step]:
    """Remove what the plan says; return the steps that were done, with those kept. Raises Busy, and Refused
    while our own database is gone: then every backup may be needed.

    Safe twice, and when killed: a backup is renamed away before its files go, and the next run ends what was begun.
    One that is being restored from stays until next time.
    """
    server = home_server()
    with exclusive(server) as session:
        require_database(server, session)
        backups = {backup.pk: backup for backup in catalogue.tidy()}
        return [apply(step, backups[step.backup_id]) for step in plan_for(list(backups.values()), now)]


def plan_for(backups: list[Backup], now: datetime) -> list[Step]:
    candidates = [
        Candidate(backup.pk, backup.status, backup.started_at, backup.is_pinned, catalogue.is_stored(backup))
        for backup in backups
        if backup.kind == Backup.Kind.LOGICAL
    ]
    return plan_retention(candidates, now, settings.BACKUP_LOGICAL_KEEP_DAYS)


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
            return Step("keep", step.backup_id, "somebody restores from it now")
        log.info("removing backup %s: %s", backup.pk, step.why)
        catalogue.remove(backup)
    return step
