"""Celery entry points of monitoring."""

from datetime import timedelta
from time import monotonic

from celery import shared_task
from django.utils import timezone

from monitoring import history
from monitoring.alarms import evaluate_rules
from monitoring.models import AlarmEvent
from monitoring.senders import send_due

KEEP_EVENTS = timedelta(days=400)  # a year and a month, to compare
SEND_SECONDS = 10


@shared_task(name="monitoring.evaluate_alarms")
def evaluate_alarms_job() -> int:
    """Judge the rules, then send what is due. Safe twice, late or beside itself: see both functions."""
    changed = evaluate_rules(timezone.now())
    until = monotonic() + SEND_SECONDS
    while monotonic() < until and send_due(timezone.now()):
        pass
    return changed


@shared_task(name="monitoring.purge_alarm_events")
def purge_alarm_events_job() -> int:
    """Delete events older than KEEP_EVENTS, and their notifications. Safe twice: what is gone is gone."""
    gone, _ = AlarmEvent.objects.filter(happened_at__lt=timezone.now() - KEEP_EVENTS).delete()
    return gone


@shared_task(name="monitoring.snap_load")
def snap_load_job() -> str:
    """Keep the load of this minute. Safe twice, late or beside itself: a row more says the same."""
    return str(history.snap_load())


@shared_task(name="monitoring.snap_growth")
def snap_growth_job() -> str:
    """Keep the sizes of this hour. Safe twice, late or beside itself: a row more says the same."""
    return str(history.snap_growth())
