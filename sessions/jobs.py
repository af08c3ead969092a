"""Celery entry points of the sessions room."""

from celery import shared_task

from sessions.lifecycle import purge_expired


@shared_task(name="sessions.purge_expired")
def purge_expired_sessions() -> int:
    """Delete expired sessions until none is left; return how many.

    Safe twice, late or beside itself: expired sessions open nothing anyway, and two runs take different rows.
    """
    purged = 0
    while batch := purge_expired():
        purged += batch
    return purged
