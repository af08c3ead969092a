"""Celery entry points of operators."""

from time import monotonic

from celery import shared_task

from operators.audit import seal_entries
from operators.bulk import run_next_batch

BULK_SECONDS = 20  # then the next call goes on, so that the other jobs of this worker have their turn


@shared_task(name="operators.seal_audit")
def seal_audit_job() -> int:
    """Safe twice, late or beside itself: one runner seals, a second one finds the lock taken and does nothing."""
    return seal_entries()


@shared_task(name="operators.run_bulk")
def run_bulk_job() -> int:
    """Return how many batches were done. Safe twice, late or beside itself: see `run_next_batch`."""
    until, batches = monotonic() + BULK_SECONDS, 0
    while monotonic() < until and run_next_batch():
        batches += 1
    return batches
