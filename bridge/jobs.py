"""Celery entry points of the bridge."""

from typing import Any

from celery import shared_task
from django.db import connection as db

from bridge.hydration import sweep
from bridge.reconcile import reconcile
from bridge.session import open_session
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


@shared_task(name="bridge.reconcile", soft_time_limit=3600, time_limit=3660)
def reconcile_job() -> list[dict[str, Any]]:
    """Compare both stores and repair; return the counts. Safe twice, late or beside itself: every repair is a
    compare-and-set on what was read."""
    with open_session() as session:
        return [report.as_item() for report in reconcile(session, repair=True)]


@shared_task(name="bridge.sweep_hydration", soft_time_limit=300, time_limit=330)
def sweep_hydration_job() -> dict[str, int]:
    """Hydrate agents that began to work, release those that ended. Safe twice, late or beside itself: each move of a
    phase holds only for the phase it saw."""
    with open_session() as session:
        return vars(sweep(session))
