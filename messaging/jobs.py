"""Celery entry points of the messaging room."""

from collections.abc import Callable

from celery import shared_task

from messaging.delivery import BATCH, bury_deliveries, expire_deliveries

MOST_BATCHES = 20  # per run: the next one goes on


@shared_task(name="messaging.sweep")
def sweep_deliveries() -> dict[str, int]:
    """Expire what nobody took in time, and fail what was never acknowledged; return how many of each.

    Safe twice, late or beside itself: each row is settled by one run, and `take` leaves both kinds alone anyway.
    """
    return {"expired": run_batches(expire_deliveries), "failed": run_batches(bury_deliveries)}


def run_batches(settle: Callable[[int], int]) -> int:
    total = 0
    for _ in range(MOST_BATCHES):
        settled = settle(BATCH)
        total += settled
        if settled < BATCH:
            break
    return total
