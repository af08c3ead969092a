"""What doctor asks of the sessions room, and its figures for /metrics."""

from collections.abc import Iterator
from datetime import timedelta

from django.utils import timezone

from monitoring.registry import Finding, register_check, register_metric
from sessions.lifecycle import count_expired, count_live

UNPURGED = timedelta(hours=1)


def look_for_unpurged_sessions() -> Iterator[Finding]:
    """Expired sessions open nothing; that they stay means that the purge does not run."""
    expired = count_expired()
    is_late = expired["oldest"] is not None and expired["oldest"] < timezone.now() - UNPURGED
    yield Finding(
        not is_late,
        f"{expired['number']} expired sessions, the oldest since {expired['oldest']:%Y-%m-%d %H:%M} UTC"
        if is_late
        else "expired sessions are purged",
        "beat or its worker is down: `manage.py status`; by hand: `manage.py sessions purge`",
    )


def read_sessions() -> Iterator[tuple[dict[str, str], float]]:
    yield {}, count_live()


def register() -> None:
    register_check("sessions.purge", look_for_unpurged_sessions)
    register_metric("mistersmith_sessions", "Open sessions, counted up to 10000.", read_sessions)
