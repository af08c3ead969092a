"""One action on many rows as a tracked job: counted first, done in batches, to be watched and cancelled.

A room registers the action in `AppConfig.ready`; the admin and the room's command request it:

    register_bulk(BulkAction("tasks.cancel", "Cancel tasks", count=count_matching, run_batch=cancel_batch))
    job = request_bulk("tasks.cancel", {"task_type": "echo"}, by=actor, reason="wrong input")
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.db import OperationalError, transaction
from django.utils import timezone

from operators.audit import Actor, record, require_reason
from operators.models import OPEN, BulkJob, BulkStatus
from pg.errors import MisterSmithError, Refused

BATCH_ROWS = 500


@dataclass(frozen=True)
class Batch:
    """What one batch did. `position` is where the next one begins (JSON), None when nothing is left."""

    done: int
    position: Any
    failed: int = 0
    error: str = ""  # of the newest failure


@dataclass(frozen=True)
class BulkAction:
    """`count(parameters)` returns how many rows match. `run_batch(parameters, position, limit, by)` works on the next
    `limit` rows after `position` (None: from the start) inside the caller's transaction; a row that must not be touched
    any more is passed over. Both raise Refused for parameters that make no sense."""

    name: str
    title: str
    count: Callable[[dict[str, Any]], int]
    run_batch: Callable[[dict[str, Any], Any, int, Actor], Batch]


_actions: dict[str, BulkAction] = {}


def register_bulk(action: BulkAction) -> None:
    """Add an action, or replace the one of that name."""
    _actions[action.name] = action


def bulk_action(name: str) -> BulkAction:
    """Raises Refused for a name that no room registered."""
    try:
        return _actions[name]
    except KeyError:
        raise Refused(f"{name}: no such bulk action", f"known: {', '.join(sorted(_actions))}") from None


def count_bulk(name: str, parameters: dict[str, Any]) -> int:
    """Return how many rows match now: what a dry run shows."""
    return bulk_action(name).count(parameters)


def request_bulk(name: str, parameters: dict[str, Any], *, by: Actor, reason: str) -> BulkJob:
    """Queue a job and record it in the audit, in one transaction. Raises Refused."""
    reason = require_reason(reason)
    expected = count_bulk(name, parameters)
    with transaction.atomic():
        job = BulkJob.objects.create(
            action=name,
            parameters=parameters,
            reason=reason,
            requested_by=by.name,
            via=by.via,
            expected=expected,
        )
        details = {"job_id": job.pk, "parameters": parameters}
        record(by, name, reason=reason, details=details, object_count=expected)
    return job


def cancel_bulk(job_id: int, *, by: Actor, reason: str) -> BulkJob:
    """Stop a job before its next batch; what is done stays done. Raises Refused when it has ended."""
    with transaction.atomic():
        job = BulkJob.objects.select_for_update().filter(pk=job_id).first()
        if job is None or job.status not in OPEN:
            raise Refused(
                f"bulk job {job_id}: {job.status if job else 'no such job'}", "see `manage.py audit jobs`"
            )
        end(job, BulkStatus.CANCELLED)
        record(by, "operators.cancel_bulk", [job.pk], reason=reason)
    return job


def run_next_batch() -> bool:
    """Work on one batch of the oldest open job that nobody works on; return whether there was any.

    Safe twice, late or beside itself: the job's row is locked for the batch, and batch, counts and position commit
    together. Raises what may go through later (a deadlock, an outage): nothing of the batch is done then.
    """
    with transaction.atomic():
        open_jobs = BulkJob.objects.select_for_update(skip_locked=True).filter(status__in=OPEN)
        job = open_jobs.order_by("job_id").first()
        if job is None:
            return False
        job.status, job.started_at = BulkStatus.RUNNING, job.started_at or timezone.now()
        try:
            with transaction.atomic():
                batch = run_batch(job)
        except Exception as error:  # whatever it is, the job's row must say it; its batch is rolled back
            if may_go_through_later(error):
                raise
            job.error = f"{type(error).__name__}: {error}"
            end(job, BulkStatus.FAILED)
        else:
            note(job, batch)
    return True


def may_go_through_later(error: Exception) -> bool:
    """Tell a deadlock or an outage from a mistake: the next sweep tries the same batch again."""
    return isinstance(error, OperationalError) or (isinstance(error, MisterSmithError) and error.retry)


def run_batch(job: BulkJob) -> Batch:
    by = Actor(job.requested_by, job.via)
    return bulk_action(job.action).run_batch(job.parameters, job.position, BATCH_ROWS, by)


def note(job: BulkJob, batch: Batch) -> None:
    job.done += batch.done
    job.failed += batch.failed
    job.position = batch.position
    job.error = batch.error or job.error
    if batch.position is None:
        end(job, BulkStatus.FINISHED)
    else:
        job.save()


def end(job: BulkJob, status: BulkStatus) -> None:
    job.status, job.finished_at = status, timezone.now()
    job.save()
