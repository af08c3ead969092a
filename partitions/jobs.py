"""Celery entry points of the partitions room."""

from celery import shared_task
from django.utils import timezone

from partitions.maintenance import apply_all


@shared_task(name="partitions.apply")
def apply_partitions() -> dict[str, int]:
    """Make partitions ahead and remove what is out of retention.

    Safe twice, late or beside itself: see `partitions.maintenance`.
    """
    outcomes = apply_all(timezone.now().date())
    return {
        "steps": sum(outcome.step.action != "keep" for outcome in outcomes),
        "failed": sum(outcome.error is not None for outcome in outcomes),
    }
