"""Recurring jobs as rows of django-celery-beat, which operators may edit in the admin.

Each room declares its schedules in `AppConfig.ready`; the rows are added after each migrate. What an operator changed,
or switched off, stays. A deleted row comes back with the next migrate: switch it off instead.
"""

from dataclasses import dataclass
from typing import Any

from django.db import connections


@dataclass(frozen=True)
class Schedule:
    """When the Celery job `job` runs: every so many seconds, or by a crontab of five parts, in UTC."""

    name: str
    job: str
    every_seconds: int | None = None
    crontab: str | None = None
    description: str = ""
    expire_seconds: int | None = None  # a run that no worker took by then is dropped; None keeps it


_schedules: dict[str, Schedule] = {}


def declare_schedule(
    name: str,
    job: str,
    *,
    every_seconds: int | None = None,
    crontab: str | None = None,
    description: str = "",
    expire_seconds: int | None = None,
) -> None:
    """Declare a schedule, or replace the one of that name. Give `every_seconds` or `crontab`, else ValueError."""
    if (every_seconds is None) == (crontab is None):
        raise ValueError(f"{name}: give every_seconds or crontab, one of them")
    _schedules[name] = Schedule(name, job, every_seconds, crontab, description, expire_seconds)


def declared_schedules() -> list[Schedule]:
    return [_schedules[name] for name in sorted(_schedules)]


def install_schedules(using: str = "default", **_: Any) -> int:
    """Add the rows that are missing; return how many. Does nothing where beat's tables are not there.

    Connected to post_migrate. Running twice is safe: a name that exists is left as it is.
    """
    from django_celery_beat.models import PeriodicTask

    if PeriodicTask._meta.db_table not in connections[using].introspection.table_names():
        return 0
    known = set(PeriodicTask.objects.using(using).values_list("name", flat=True))
    return sum(_install(schedule, using) for schedule in declared_schedules() if schedule.name not in known)


def _install(schedule: Schedule, using: str) -> bool:
    """Add one row; return False where another process was first."""
    from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask

    when: dict[str, Any] = {}
    if schedule.crontab is None:
        values: dict[str, Any] = {"every": schedule.every_seconds, "period": IntervalSchedule.SECONDS}
        rows = IntervalSchedule.objects.using(using)
        when["interval"] = rows.filter(**values).first() or rows.create(**values)
    else:
        parts = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
        values = {**dict(zip(parts, schedule.crontab.split(), strict=True)), "timezone": "UTC"}
        crontabs = CrontabSchedule.objects.using(using)
        when["crontab"] = crontabs.filter(**values).first() or crontabs.create(**values)
    _, is_new = PeriodicTask.objects.using(using).get_or_create(
        name=schedule.name,
        defaults={
            "task": schedule.job,
            "description": schedule.description,
            "expire_seconds": schedule.expire_seconds,
            **when,
        },
    )
    return bool(is_new)
