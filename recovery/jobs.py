"""Celery entry points of the recovery room."""

import logging
from typing import Any

from celery import shared_task
from django.conf import settings
from django.utils import timezone

from monitoring.alarms import evaluate_rules
from pg.errors import Refused
from recovery.continuity import look_at_archive
from recovery.cross import back_up_cross
from recovery.cross_drill import run_cross_drill
from recovery.daily import Day, run_daily, run_weekly
from recovery.errors import Busy, UnknownBackup
from recovery.fetch import fetch
from recovery.fetch_plan import plan_fetch
from recovery.logical import back_up
from recovery.models import Backup
from recovery.partial_drill import run_partial_drill
from recovery.physical import back_up_server
from recovery.proving import prove, run_scheduled_drill
from recovery.rekeying import rekey
from recovery.restore_source import finished_cross
from recovery.scope import read_scope
from recovery.source import open_source
from recovery.staging import stage
from recovery.stocktaking import repair_store
from recovery.store_retention import spare, sweep
from recovery.target import Target
from recovery.upload import upload
from recovery.verify import choose

log = logging.getLogger(__name__)
# 20 minutes from the soft limit, which notes the failure and removes what is half-made, to the hard one
SOFT_SECONDS = 6 * 3600
HARD_SECONDS = SOFT_SECONDS + 20 * 60
BUSY_SECONDS = 60
# of what needs the recovery lock: while another run holds it, the job comes back
COMES_BACK: dict[str, Any] = {
    "soft_time_limit": SOFT_SECONDS,
    "time_limit": HARD_SECONDS,
    "autoretry_for": (Busy,),
    "retry_kwargs": {"max_retries": 60, "countdown": BUSY_SECONDS},
}
WAL_SECONDS = 45  # then it makes room for others: it is back in a minute


@shared_task(name="recovery.daily_backup", soft_time_limit=SOFT_SECONDS, time_limit=HARD_SECONDS)
def daily_backup_job() -> dict[str, object]:
    """Back up, verify, prune. Safe twice, late or beside itself: the second of two at once ends with Busy."""
    return summary_of(run_daily())


def summary_of(day: Day) -> dict[str, object]:
    removed = sum(step.action == "remove" for step in day.steps)
    return {"backup_id": str(day.backup.pk), "problems": day.problems, "removed": removed}


@shared_task(name="recovery.weekly_backup", soft_time_limit=SOFT_SECONDS, time_limit=HARD_SECONDS)
def weekly_backup_job() -> dict[str, object]:
    """The same with a base backup and a drill of it. Safe twice, late or beside itself, as the daily one is."""
    return summary_of(run_weekly())


@shared_task(name="recovery.look_at_archive", soft_time_limit=600, time_limit=660)
def look_at_archive_job() -> list[str]:
    """Look for gaps in the WAL archive; return the problems, of which the alarm tells at once, not at its next turn.
    Safe twice, late or beside itself: rows say what was seen."""
    problems = look_at_archive().problems
    if problems:
        evaluate_rules(timezone.now())
    return problems


@shared_task(name="recovery.drill", **COMES_BACK)
def drill_job() -> list[str]:
    """Restore into a scratch server; return the problems. Safe twice; while another run holds the lock it comes
    back."""
    return run_scheduled_drill().problems


@shared_task(name="recovery.logical_backup", **COMES_BACK)
def logical_backup_job() -> str:
    """Make a logical backup; return its id. Twice makes two; while another run holds the lock it comes back later."""
    return str(back_up().pk)


@shared_task(name="recovery.back_up_server", **COMES_BACK)
def back_up_server_job(incremental: bool = False) -> str:
    """Make a base or incremental backup; return its id. Twice makes two; while another run holds the lock it comes
    back."""
    return str(back_up_server(incremental).pk)


@shared_task(name="recovery.verify", **COMES_BACK)
def verify_job(backup_id: str) -> list[str]:
    """Verify one backup; return its problems. Safe twice; while another run holds the lock it comes back later."""
    return prove(backup_id).problems


@shared_task(name="recovery.cross_backup", **COMES_BACK)
def cross_backup_job() -> str | None:
    """Back up PostgreSQL and JetStream at one moment; return the id, None where the server does not let us (it does not
    archive its WAL here). Twice makes two; while another run holds the lock it comes back."""
    if not settings.BACKUP_SERVER:
        return None
    try:
        return str(back_up_cross().pk)
    except Refused as refused:
        if type(refused) is not Refused:  # no room, no programs, not in step: somebody must look
            raise
        log.warning("no cross-system backup: %s (HINT: %s)", refused, refused.hint)
        return None


@shared_task(name="recovery.cross_drill", **COMES_BACK)
def cross_drill_job() -> list[str]:
    """Restore both systems beside the running ones, where there is a cross-system backup; return the problems. Safe
    twice; while another run holds the lock it comes back."""
    return run_cross_drill().problems if finished_cross() else []


@shared_task(name="recovery.partial_drill", **COMES_BACK)
def partial_drill_job() -> list[str]:
    """Bring one table back beside today's, where there is a logical backup; return the problems. Safe twice; while
    another run holds the lock it comes back."""
    try:
        choose("", (Backup.Kind.LOGICAL,))
    except UnknownBackup:
        return []
    return run_partial_drill().problems


@shared_task(name="recovery.stage", **COMES_BACK)
def stage_job(kind: str, name: str, moment: str) -> str:
    """Stage a part of the data; return the staging schema. Twice makes two; while another run holds the lock it comes
    back."""
    return stage(read_scope(kind, name), target=Target("time", moment) if moment else None).name


@shared_task(name="recovery.upload_wal", soft_time_limit=600, time_limit=660)
def upload_wal_job() -> dict[str, object]:
    """Send WAL to the store; return what was done. Safe twice, late, beside itself and when killed: an object that is
    there is not sent again, and the second of two at once does nothing."""
    return upload_some("wal", WAL_SECONDS)


@shared_task(name="recovery.upload_backups", soft_time_limit=SOFT_SECONDS, time_limit=HARD_SECONDS)
def upload_backups_job() -> dict[str, object]:
    """Send backups to the store, then delete there what was pruned long enough ago. Safe as the other one is; what was
    sent in part is gone on with."""
    done = upload_some("backups")
    return {**done, "deleted": sweep().deleted}


@shared_task(name="recovery.fetch", **COMES_BACK)
def fetch_job(backup_id: str) -> dict[str, int]:
    """Bring a backup, what it builds on and its WAL back from the store; return what came. Safe twice and when killed:
    what is whole here is not fetched again; while another run holds the lock it comes back."""
    done = fetch(plan_fetch(backup_id))
    for backup in done.backups:
        spare(backup.pk)
    return {"backups": len(done.backups), "wal_files": done.wal}


@shared_task(name="recovery.repair_store", **COMES_BACK)
def repair_store_job(read: bool = True) -> dict[str, int]:
    """Read all of the store, queue again what is missing or damaged there, take up what the table has forgotten; return
    what was found. Safe twice and when killed; while another run holds a lock it comes back."""
    stock = repair_store(open_source(allow_plain=True), read)
    counts = {"missing": len(stock.missing), "damaged": len(stock.damaged), "unknown": len(stock.unknown)}
    return {"objects": stock.objects, "adopted": stock.adopted, **counts}


@shared_task(name="recovery.rekey", **COMES_BACK)
def rekey_job() -> dict[str, object]:
    """Encrypt anew what is not under the first key; return what was done. Safe twice and when killed: it goes on with
    what is left; while another run changes the store it comes back."""
    done = rekey()
    return {
        "objects": done.objects,
        "bytes": done.size_bytes,
        "refused": done.refused,
        "stopped": done.stopped,
    }


def upload_some(what: str, seconds: float | None = None) -> dict[str, object]:
    try:
        sent = upload(what, seconds)
    except Busy:
        return {"busy": True}
    return {
        "objects": sent.objects,
        "bytes": sent.size_bytes,
        "refused": sent.refused,
        "stopped": sent.stopped,
    }
