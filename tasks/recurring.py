"""Recurring tasks: rows of django-celery-beat whose job is `tasks.enqueue_recurring`, edited like any other schedule.

The row's keyword arguments say what to enqueue: `task_type`, `payload`, options of NewTask, and `catch_up`. The
database settles who does a slot: whoever moves recurring_slots on, in the transaction that enqueues. So two beats, or a
message delivered twice, enqueue once; and after an outage the policy decides about the slots that were missed.
"""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask

from operators.audit import Actor, record
from pg.errors import Refused
from tasks.enqueue import NewTask, enqueue_many
from tasks.models import RecurringSlot
from tasks.new_task import row_of

JOB = "tasks.enqueue_recurring"
CATCH_UP = ("none", "one", "all")  # of missed slots: none, the newest, each
MAX_MISSED = 1_000
LATE_SECONDS = 60.0  # a slot that beat comes to within that was not missed


def enqueue_due(name: str, now: datetime | None = None) -> list[UUID]:
    """Enqueue what is due of the recurring task `name`; return the ids, [] where another run has done it.

    Raises Refused for a row that is gone or makes no sense.
    """
    now = now or timezone.now()
    row = get_row(name)
    options = json.loads(row.kwargs or "{}")
    catch_up = options.pop("catch_up", "one")
    with transaction.atomic():
        begin = now - timedelta(
            seconds=LATE_SECONDS
        )  # a row made in the admin: the slot that brought us here
        _, is_new = RecurringSlot.objects.get_or_create(name=name, defaults={"last_slot": begin})
        slot = RecurringSlot.objects.select_for_update().get(name=name)
        due = list(islice(slots_between(row, slot.last_slot, now), MAX_MISSED))[-1 if is_new else 0 :]
        if not due:
            return []
        tasks = [new_task(name, at, options) for at in chosen(due, catch_up, now)]
        ids = enqueue_many(tasks)
        slot.last_slot, slot.updated_at = due[-1], now
        slot.last_task_id = ids[-1] if ids else slot.last_task_id
        slot.save()
    return ids


def chosen(due: list[datetime], catch_up: str, now: datetime) -> list[datetime]:
    """Return the slots to enqueue, oldest first. The newest one is not missed if it is fresh."""
    if catch_up not in CATCH_UP:
        raise Refused(f"catch_up={catch_up!r}: must be one of {', '.join(CATCH_UP)}")
    if catch_up == "all":
        return due
    is_fresh = now - due[-1] <= timedelta(seconds=LATE_SECONDS)
    return due[-1:] if catch_up == "one" or is_fresh else []


def new_task(name: str, slot: datetime, options: dict[str, Any]) -> NewTask:
    try:
        return NewTask(**options, name=f"{name} of {slot:%Y-%m-%d %H:%M:%S}")
    except TypeError as error:
        raise Refused(
            f"recurring task {name!r}: {error}", "its keyword arguments are those of NewTask"
        ) from error


def slots_between(row: PeriodicTask, after: datetime, until: datetime) -> Iterator[datetime]:
    """Yield the moments in (after, until] at which the row's schedule is due, oldest first."""
    moment = after
    while (moment := next_slot(row, moment)) <= until:
        yield moment


def next_slot(row: PeriodicTask, after: datetime) -> datetime:
    """Return the first moment after `after` at which the schedule is due. Intervals count from 1970."""
    if row.interval is not None:
        seconds = row.interval.schedule.run_every.total_seconds()
        return datetime.fromtimestamp((after.timestamp() // seconds + 1) * seconds, tz=after.tzinfo)
    start, delta, _ = row.crontab.schedule.remaining_delta(after)
    found: datetime = start + delta
    return found


def get_row(name: str) -> PeriodicTask:
    row = PeriodicTask.objects.filter(name=name, task=JOB).first()
    if row is None or (row.interval is None and row.crontab is None):
        raise Refused(f"{name!r}: no such recurring task", "see `manage.py tasks cron`")
    return row


def set_recurring(
    name: str,
    options: dict[str, Any],
    *,
    by: Actor,
    crontab: str | None = None,
    every_seconds: int | None = None,
    reason: str = "",
) -> PeriodicTask:
    """Make, or replace, a recurring task; `options` are those of NewTask and `catch_up`. Times are UTC.

    Raises Refused, nothing changed, for options that no task could be enqueued with.
    """
    checked = {key: value for key, value in options.items() if key != "catch_up"}
    chosen([timezone.now()], options.get("catch_up", "one"), timezone.now())
    row_of(new_task(name, timezone.now(), checked))
    when = schedule_of(crontab, every_seconds)
    told = {
        "task": JOB,
        "kwargs": json.dumps(options),
        "crontab": None,
        "interval": None,
        "enabled": True,
        **when,
    }
    with transaction.atomic():
        row, _ = PeriodicTask.objects.update_or_create(name=name, defaults=told)
        RecurringSlot.objects.update_or_create(
            name=name, defaults={"last_slot": timezone.now()}
        )  # it begins now
        record(
            by, "tasks.set_recurring", [name], reason=reason, details={**options, "crontab": crontab or ""}
        )
    return row


def schedule_of(crontab: str | None, every_seconds: int | None) -> dict[str, Any]:
    if (crontab is None) == (every_seconds is None):
        raise Refused("give a crontab or a number of seconds, one of them")
    if every_seconds is not None:
        if every_seconds < 1:
            raise Refused(f"every_seconds={every_seconds}: must be 1 or more")
        values = {"every": every_seconds, "period": IntervalSchedule.SECONDS}
        return {
            "interval": IntervalSchedule.objects.filter(**values).first()
            or IntervalSchedule.objects.create(**values)
        }
    parts = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
    fields = str(crontab).split()
    if len(fields) != len(parts):
        raise Refused(
            f"crontab={crontab!r}: must have five parts", 'for instance "0 3 * * *": at 3 each night'
        )
    row = CrontabSchedule(**dict(zip(parts, fields, strict=True)), timezone="UTC")
    try:
        row.schedule  # noqa: B018  (reading it parses the parts)
    except Exception as error:
        raise Refused(f"crontab={crontab!r}: {error}") from error
    values = {**dict(zip(parts, fields, strict=True)), "timezone": "UTC"}
    return {
        "crontab": CrontabSchedule.objects.filter(**values).first()
        or CrontabSchedule.objects.create(**values)
    }


def remove_recurring(name: str, *, by: Actor, reason: str = "") -> bool:
    """Remove a recurring task; return False where there was none. What it has enqueued stays."""
    with transaction.atomic():
        count, _ = PeriodicTask.objects.filter(name=name, task=JOB).delete()
        RecurringSlot.objects.filter(name=name).delete()
        if count:
            record(by, "tasks.remove_recurring", [name], reason=reason)
    return bool(count)
