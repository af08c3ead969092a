"""Celery entry points of the recovery room."""

from celery import shared_task

from recovery.daily import run_daily
from recovery.errors import Busy
from recovery.verify import verify

# 20 minutes from the soft limit, which notes the failure and removes what is half-made, to the hard one
SOFT_SECONDS = 6 * 3600
HARD_SECONDS = SOFT_SECONDS + 20 * 60
BUSY_SECONDS = 60


@shared_task(name="recovery.daily_backup", soft_time_limit=SOFT_SECONDS, time_limit=HARD_SECONDS)
def daily_backup_job() -> dict[str, object]:
    """Back up, verify, prune. Safe twice, late or beside itself: the second of two at once ends with Busy."""
    day = run_daily()
    removed = sum(step.action == "remove" for step in day.steps)
    return {"backup_id": str(day.backup.pk), "problems": day.verdict.problems, "removed": removed}


@shared_task(
    name="recovery.verify",
    soft_time_limit=SOFT_SECONDS,
    time_limit=HARD_SECONDS,
    autoretry_for=(Busy,),
    retry_kwargs={"max_retries": 60, "countdown": BUSY_SECONDS},
)
def verify_job(backup_id: str) -> list[str]:
    """Verify one backup; return its problems. Safe twice; while another run holds the lock it comes back later."""
    return verify(backup_id).problems
