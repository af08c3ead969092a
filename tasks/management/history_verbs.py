"""manage.py tasks: what acts on many tasks, on finished ones, and on recurring ones."""

from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from django_celery_beat.models import PeriodicTask

from operators.audit import Actor
from operators.bulk import count_bulk, request_bulk
from operators.command import Answer, OperatorCommand
from tasks.enqueue import parse_payload
from tasks.management.arguments import moment, positive
from tasks.models import RecurringSlot, TaskPriority, TaskStatus
from tasks.recurring import CATCH_UP, JOB, remove_recurring, set_recurring
from tasks.retention import STATUSES, keep, plan_prune, prune

BULK = {change: f"tasks.{change}_all" for change in ("cancel", "pause", "resume", "retry")}


def add_history_verbs(command: OperatorCommand) -> None:
    parser: ArgumentParser = command.add_verb(
        "bulk", bulk, "do something with all tasks that match, as a tracked job"
    )
    parser.add_argument("change", choices=sorted(BULK))
    parser.add_argument("--type", dest="task_type")
    parser.add_argument("--status", choices=TaskStatus.values)
    parser.add_argument("--priority", choices=TaskPriority.values)
    parser.add_argument("--queue")
    parser.add_argument("--error", help="part of the status reason")
    parser.add_argument("--created-before", type=moment)
    parser.add_argument("--created-after", type=moment)
    parser.add_argument("--dry-run", action="store_true", help="count what matches now")
    parser.add_argument("--reason", default="", help="required unless --dry-run")
    parser = command.add_verb("prune", prune_finished, "remove finished tasks whose time is over")
    parser.add_argument("--dry-run", action="store_true", help="print what would be removed")
    parser = command.add_verb("keep", keep_finished, "set how long finished tasks of a type stay")
    parser.add_argument("task_type", help="* for types that nobody registered")
    for status in STATUSES:
        parser.add_argument(f"--{status}-days", type=float, help="as the handler declares without it")
    parser.add_argument("--reason", default="")
    add_cron(command)


def add_cron(command: OperatorCommand) -> None:
    parser: ArgumentParser = command.add_verb("cron", cron, "show recurring tasks; set or remove one by name")
    parser.add_argument("name", nargs="?")
    parser.add_argument("--type", dest="task_type")
    parser.add_argument("--payload", default="{}", help="JSON, {} without it")
    parser.add_argument("--crontab", help='five parts, UTC: "0 3 * * *"')
    parser.add_argument("--every-seconds", type=positive)
    parser.add_argument(
        "--catch-up", choices=CATCH_UP, default="one", help="which of the moments that were missed"
    )
    parser.add_argument("--remove", action="store_true")
    parser.add_argument("--reason", default="")


def bulk(change: str, dry_run: bool, reason: str, **given: Any) -> Answer:
    names = ("task_type", "status", "priority", "queue", "error", "created_before", "created_after")
    filters = {name: text_of(given[name]) for name in names if given[name] is not None}
    if dry_run:
        return Answer(counts={"matching": count_bulk(BULK[change], filters)})
    job = request_bulk(BULK[change], filters, by=Actor.of_command(), reason=reason)
    return Answer(items=[{"job_id": job.pk, "action": job.action, "expected": job.expected}])


def text_of(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def prune_finished(dry_run: bool, **_: Any) -> Answer:
    if not dry_run:
        return Answer(counts=prune())
    steps = [
        {
            "action": "remove",
            "object": f"{number} {rule.status} tasks of {rule.task_type}",
            "why": f"older than {rule.keep_days:g} days",
        }
        for rule, number in plan_prune()
    ]
    return Answer(steps=steps)


def keep_finished(task_type: str, reason: str, **given: Any) -> Answer:
    days = {status: given[f"{status}_days"] for status in STATUSES}
    row = keep(task_type, days, Actor.of_command(), reason)
    return Answer(
        items=[{"task_type": row.task_type, **{f"keep_{name}_days": value for name, value in days.items()}}]
    )


def cron(name: str | None, task_type: str | None, remove: bool, reason: str, **given: Any) -> Answer:
    by = Actor.of_command()
    if name and remove:
        is_gone = remove_recurring(name, by=by, reason=reason)
        warnings = [] if is_gone else [f"{name}: no such recurring task"]
        return Answer(counts={"removed": int(is_gone)}, warnings=warnings, ok=is_gone)
    if name and task_type:
        payload = parse_payload(given["payload"])
        options = {"task_type": task_type, "payload": payload, "catch_up": given["catch_up"]}
        when = {"crontab": given["crontab"], "every_seconds": given["every_seconds"]}
        set_recurring(name, options, by=by, reason=reason, **when)
    rows = PeriodicTask.objects.filter(task=JOB).order_by("name")
    items = [recurring_row(row) for row in (rows.filter(name=name) if name else rows)]
    return Answer(items=items, counts={"recurring": len(items)})


def recurring_row(row: PeriodicTask) -> dict[str, Any]:
    slot = RecurringSlot.objects.filter(pk=row.name).first()
    return {
        "name": row.name,
        "schedule": str(row.crontab or row.interval),
        "enabled": row.enabled,
        "options": row.kwargs,
        "last_slot": slot and slot.last_slot,
        "last_task_id": slot and slot.last_task_id,
    }
