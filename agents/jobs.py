"""Celery entry points of the agents room."""

from celery import shared_task
from django.utils import timezone

from agents.liveness import judge_liveness
from agents.state import purge_expired_state


@shared_task(name="agents.judge_liveness")
def judge_liveness_job() -> int:
    """Safe twice, late or beside itself: it sets what the heartbeats say, each row by one runner."""
    return len(judge_liveness(timezone.now()))


@shared_task(name="agents.purge_expired_state")
def purge_expired_state_job() -> int:
    """Safe twice, late or beside itself: expired rows stay expired, locked ones are skipped."""
    return purge_expired_state()
