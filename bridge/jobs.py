"""Celery entry points of the bridge."""

from celery import shared_task
from django.db import connection as db

from bridge.sources import purge_tombstones

MOST_BATCHES = 50


@shared_task(name="bridge.purge_tombstones")
def purge_tombstones_job() -> int:
    """Forget positions that no write can be older than; return how many.

    Safe twice, late or beside itself: what is old stays old, and rows that another run has are skipped.
    """
    total = 0
    for _ in range(MOST_BATCHES):
        number = purge_tombstones(db)
        total += number
        if not number:
            break
    return total
