"""manage.py tasks: put tasks into the queue, look at them and steer them."""

from argparse import ArgumentParser
from datetime import datetime
from typing import Any
from uuid import UUID

from operators.audit import Actor
from operators.command import Answer, OperatorCommand
from pg.querysets import ID_TOLERANCE
from tasks import stats
from tasks.claim import cancel
from tasks.control import failed_tasks, get_task, redrive, rerun, retry, with_children
from tasks.enqueue import After, TaskRefused, enqueue, parse_payload
from tasks.leaves import leaf_of
from tasks.limits import BOUNDS, Bounds, remove_limit, set_limit
from tasks.management.arguments import after, moment, positive, rate, uuid_of
from tasks.management.history_verbs import add_history_verbs
from tasks.management.type_verbs import add_register
from tasks.models import Execution, Limit, Pause, Task, TaskPriority, TaskStatus, TaskType
from tasks.pauses import pause, pause_queue, resume, resume_queue
from tasks.registry import all_handlers
from tasks.sweep import QUERIES, cancel_expired
from tasks.task_pauses import pause_tasks, resume_tasks


class Command(OperatorCommand):
    help = "Put tasks into the queue, look at them and steer them."

    def add_verbs(self) -> None:
        add_enqueue(self)
        parser = self.add_verb("list", list_tasks, "show tasks, newest first")
        parser.add_argument("--type", dest="task_type")
        parser.add_argument("--status", choices=TaskStatus.values)
        parser.add_argument("--payload", metavar="JSON", help='payloads that hold this, as in {"order": 42}')
        parser.add_argument("--limit", type=positive, default=50)
        parser = self.add_verb("show", show, "show a task and its attempts")
        parser.add_argument("task_id", type=uuid_of)
        for name, run, words in (
            ("cancel", cancel_tasks, "cancel open tasks"),
            ("retry", retry_tasks, "open failed or cancelled tasks again"),
        ):
            parser = self.add_verb(name, run, words)
            parser.add_argument("task_ids", nargs="+", type=uuid_of, metavar="task_id")
            parser.add_argument("--children", action="store_true", help="and their children, down the line")
            parser.add_argument("--reason", default="")
        parser = self.add_verb("rerun", rerun_task, "enqueue a copy of a task")
        parser.add_argument("task_id", type=uuid_of)
        parser.add_argument("--payload", help="JSON; that of the old task without it")
        parser.add_argument("--reason", default="")
        add_type_verbs(self)
        add_limit_verbs(self)
        add_history_verbs(self)
        add_register(self)
        self.add_verb("stats", show_stats, "figures about the queue, at bounded cost")
        self.add_verb("types", list_types, "show task types with their handlers")


def add_enqueue(command: OperatorCommand) -> None:
    parser: ArgumentParser = command.add_verb("enqueue", enqueue_task, "put a task into the queue")
    parser.add_argument("task_type")
    parser.add_argument("payload", nargs="?", default="{}", help="JSON, {} without it")
    parser.add_argument("--name")
    parser.add_argument("--priority", choices=TaskPriority.values)
    parser.add_argument("--scheduled-at", type=moment, help="not before, ISO 8601 with a time zone")
    parser.add_argument("--expires-at", type=moment, help="cancelled when not started by then")
    parser.add_argument(
        "--depends-on",
        type=after,
        action="append",
        default=[],
        metavar="TASK_ID[:KIND[:NAME]]",
        help="kinds: completion, start, data, resource",
    )
    parser.add_argument(
        "--resource", dest="resources", action="append", default=[], help="of which it needs all"
    )
    parser.add_argument("--parent", type=uuid_of)
    parser.add_argument("--unique-key")
    parser.add_argument("--idempotency-key", help="once a day for this key")
    parser.add_argument("--concurrency-key")
    parser.add_argument("--assigned-agent", type=uuid_of)
    parser.add_argument("--max-retries", type=int)
    parser.add_argument("--timeout-seconds", type=float)
    parser.add_argument(
        "--any-type", action="store_true", help="also a type that no handler of this machine does"
    )


def add_type_verbs(command: OperatorCommand) -> None:
    parser: ArgumentParser = command.add_verb(
        "pause", pause_some, "let nothing of a type be claimed any more"
    )
    add_pause_target(parser)
    parser.add_argument("--until", type=moment, help="ISO 8601 with a time zone; until resumed without it")
    parser.add_argument("--reason", default="")
    parser = command.add_verb("resume", resume_some, "end a pause")
    add_pause_target(parser)
    parser.add_argument("--reason", default="")
    parser = command.add_verb("redrive", redrive_tasks, "retry failed tasks, the oldest first")
    parser.add_argument("--type", dest="task_type")
    parser.add_argument("--limit", type=positive, default=1000)
    parser.add_argument("--dry-run", action="store_true", help="print what would be done")
    parser = command.add_verb("expire", expire, "cancel tasks that have not started by their expires_at")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done")


def add_pause_target(parser: ArgumentParser) -> None:
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("task_type", nargs="?")
    target.add_argument("--queue", help="all types of this queue")
    target.add_argument(
        "--task", dest="task_ids", action="append", type=uuid_of, help="this task alone; may be repeated"
    )


def add_limit_verbs(command: OperatorCommand) -> None:
    command.add_verb("limits", list_limits, "show limits and weights, and who set them")
    parser: ArgumentParser = command.add_verb("limit", limit, "set or remove a limit")
    parser.add_argument("scope", choices=Limit.Scope.values)
    parser.add_argument("name", nargs="?", default="", help="of the queue, type or key")
    parser.add_argument("--max-running", type=positive, help="so many at once, over all workers")
    parser.add_argument(
        "--max-running-per-key", type=positive, help="so many at once of each concurrency key"
    )
    parser.add_argument(
        "--rate", type=rate, help="starts per seconds, for instance 100/60", metavar="N/SECONDS"
    )
    parser.add_argument("--fair-keys", action="store_true", help="concurrency keys take turns")
    parser.add_argument(
        "--weight", type=float, default=1, help="share against other types or keys; 1 without it"
    )
    parser.add_argument("--remove", action="store_true", help="what the handler declares holds again")
    parser.add_argument("--reason", default="")


# -- verbs --------------------------------------------------------------------------------------------------
def row_of(task: Task) -> dict[str, Any]:
    return {
        "task_id": task.task_id,
        "task_type": task.task_type,
        "status": str(task.status),
        "priority": str(task.priority),
        "attempt": task.attempt,
        "created_at": task.created_at,
        "status_reason": task.status_reason,
    }


def enqueue_task(
    task_type: str, payload: str, depends_on: list[After], any_type: bool, **options: Any
) -> Answer:
    value = parse_payload(payload)
    if not any_type:
        require_known_type(task_type)
    names = (
        "name",
        "priority",
        "scheduled_at",
        "expires_at",
        "parent",
        "unique_key",
        "idempotency_key",
        "concurrency_key",
        "resources",
        "assigned_agent",
    )
    given = {name: options[name] for name in (*names, "max_retries", "timeout_seconds")}
    task_id = enqueue(task_type, value, depends_on=depends_on, **given)
    return Answer(items=[row_of(get_task(task_id))])


def require_known_type(task_type: str) -> None:
    """Raise TaskRefused for a type that is neither registered nor done by a handler here: likely a slip of the pen."""
    known = {item.task_type for item in all_handlers()}
    if task_type not in known and not TaskType.objects.filter(pk=task_type).exists():
        raise TaskRefused(
            f"{task_type!r}: no such task type",
            f"known here: {', '.join(sorted(known))}; --any-type enqueues it nevertheless",
        )


def list_tasks(
    task_type: str | None, status: str | None, payload: str | None, limit: int, **_: Any
) -> Answer:
    held = None if payload is None else parse_payload(payload)
    wanted = {"task_type": task_type, "status": status, "payload__contains": held}
    rows = Task.objects.filter(**{name: value for name, value in wanted.items() if value is not None})
    items = [row_of(task) for task in rows.order_by("-pk")[:limit]]
    return Answer(items=items, counts={"shown": len(items)})


def show(task_id: UUID, **_: Any) -> Answer:
    task = get_task(task_id)
    possible = Execution.objects.between(task.created_at - ID_TOLERANCE, None)  # none is older than its task
    attempts = possible.filter(task_id=task_id).order_by("pk")[:1000]
    whole = {
        **row_of(task),
        "payload": task.payload,
        "progress": task.progress,
        "worker": task.worker,
        "scheduled_at": task.scheduled_at,
        "started_at": task.started_at,
        "completed_at": task.completed_at,
        "retry_count": task.retry_count,
        "max_retries": task.max_retries,
        "attempts": [attempt_row(attempt) for attempt in attempts],
    }
    return Answer(items=[whole], counts={"attempts": len(whole["attempts"])})


def attempt_row(attempt: Execution) -> dict[str, Any]:
    return {
        "attempt": attempt.execution_attempt,
        "status": str(attempt.status),
        "agent_id": attempt.agent_id,
        "started_at": attempt.started_at,
        "completed_at": attempt.completed_at,
        "result": attempt.result,
        "error_message": attempt.error_message,
        "cpu_time_ms": attempt.cpu_time_ms,
        "memory_peak_mb": attempt.memory_peak_mb,
        "io_operations": attempt.io_operations,
        "log_lines": attempt.log_lines,
    }


def cancel_tasks(task_ids: list[UUID], children: bool, reason: str, **_: Any) -> Answer:
    by = Actor.of_command()
    wanted = with_children(task_ids) if children else task_ids
    done = cancel(wanted, reason or f"cancelled by {by.name}", by)
    return changed(task_ids, done, "cancelled", "open")


def retry_tasks(task_ids: list[UUID], children: bool, reason: str, **_: Any) -> Answer:
    by = Actor.of_command()
    wanted = with_children(task_ids) if children else task_ids
    done = retry(wanted, reason or f"retried by {by.name}", by)
    return changed(task_ids, done, "retried", "failed or cancelled")


def changed(asked: list[UUID], done: list[UUID], verb: str, needed: str) -> Answer:
    """Answer what was done; a task that is unknown or in another state makes the command exit 1."""
    warnings = [f"{task_id} is not {needed}" for task_id in asked if task_id not in done]
    items = [{"task_id": task_id, "done": verb} for task_id in done]
    return Answer(items=items, counts={verb: len(done)}, warnings=warnings, ok=not warnings)


def rerun_task(task_id: UUID, payload: str | None, reason: str, **_: Any) -> Answer:
    value = None if payload is None else parse_payload(payload)
    return Answer(items=[row_of(get_task(rerun(task_id, value, Actor.of_command(), reason)))])


def redrive_tasks(task_type: str | None, limit: int, dry_run: bool, **_: Any) -> Answer:
    if dry_run:
        steps = [
            {"action": "retry", "object": str(task_id), "why": "it failed"}
            for task_id in failed_tasks(task_type, limit)
        ]
        return Answer(steps=steps, counts={"redriven": 0})
    by = Actor.of_command()
    return Answer(counts={"redriven": len(redrive(task_type, limit, f"redriven by {by.name}", by))})


def pause_some(
    task_type: str | None,
    queue: str | None,
    task_ids: list[UUID] | None,
    reason: str,
    until: datetime | None,
    **_: Any,
) -> Answer:
    by = Actor.of_command()
    if task_ids:
        return changed(
            task_ids, pause_tasks(task_ids, reason, by, until), "paused", "open, or is paused already"
        )
    if queue is not None:
        return Answer(
            items=[{"queue": queue, "paused": True, "changed": pause_queue(queue, reason, by, until)}]
        )
    name = str(task_type)
    require_known_type(name)
    return Answer(items=[{"task_type": name, "paused": True, "changed": pause(name, reason, by, until)}])


def resume_some(
    task_type: str | None, queue: str | None, task_ids: list[UUID] | None, reason: str, **_: Any
) -> Answer:
    by = Actor.of_command()
    if task_ids:
        return changed(task_ids, resume_tasks(task_ids, reason, by), "resumed", "paused")
    if queue is not None:
        return Answer(items=[{"queue": queue, "paused": False, "changed": resume_queue(queue, reason, by)}])
    name = str(task_type)
    return Answer(items=[{"task_type": name, "paused": False, "changed": resume(name, reason, by)}])


def list_limits(**_: Any) -> Answer:
    rows = Limit.objects.order_by("scope", "name")
    return Answer(items=[limit_row(row) for row in rows], counts={"limits": len(rows)})


def limit_row(row: Limit) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ("scope", "name", *BOUNDS, "declared_by")}


def limit(
    scope: str, name: str, remove: bool, reason: str, rate: tuple[int, float] | None, **given: Any
) -> Answer:
    by = Actor.of_command()
    if remove:
        is_gone = remove_limit(scope, name, by, reason)
        warnings = [] if is_gone else [f"{scope} {name}: there was no limit".replace("  ", " ")]
        return Answer(counts={"removed": int(is_gone)}, warnings=warnings, ok=is_gone)
    rate_limit, rate_seconds = rate or (None, None)
    kept = {field: given[field] for field in ("max_running", "max_running_per_key", "fair_keys", "weight")}
    bounds = Bounds(**kept, rate_limit=rate_limit, rate_seconds=rate_seconds)
    return Answer(items=[limit_row(set_limit(scope, name, bounds, by, reason))])


def expire(dry_run: bool, **_: Any) -> Answer:
    if not dry_run:
        return Answer(counts={"expired": cancel_expired()})
    from django.db import transaction

    with transaction.atomic():  # the query locks what it finds
        rows = QUERIES.run("expired_tasks", limit=1000)
    why = "its expires_at has passed"
    return Answer(steps=[{"action": "cancel", "object": str(row["task_id"]), "why": why} for row in rows])


def show_stats(**_: Any) -> Answer:
    rows = stats.count_tasks()
    recent = stats.recent_executions()
    oldest = stats.oldest_ready_seconds()
    counts = {
        "running": sum(row["number"] for row in rows if row["status"] == "running"),
        "oldest_queued_age_seconds": round(oldest or 0),
        "completed_last_minute": recent["last_minute"],
        "failed_last_hour": recent["failed_last_hour"],
        "workers": stats.count_living_workers(),
        "count_limit": stats.COUNT_LIMIT,
    }
    capped = [f"{row['task_type']} {row['status']}" for row in rows if row["number"] >= stats.COUNT_LIMIT]
    warnings = [f"{name}: {stats.COUNT_LIMIT} or more" for name in capped]
    return Answer(items=rows, counts=counts, warnings=warnings)


def list_types(**_: Any) -> Answer:
    handlers = {item.task_type: item for item in all_handlers()}
    rows = {row.task_type: row for row in TaskType.objects.all()}
    paused = set(Pause.objects.values_list("task_type", flat=True))
    items = [
        {
            "task_type": name,
            "handler": f"{handlers[name].function.__module__}.{handlers[name].function.__qualname__}"
            if name in handlers
            else None,
            "leaf": leaf_of(name) if name in rows else None,
            "paused": name in paused,
            "queue": rows[name].queue if name in rows else None,
            **(handlers[name].options if name in handlers else rows[name].options if name in rows else {}),
        }
        for name in sorted({*handlers, *rows, *paused})
    ]
    return Answer(items=items, counts={"types": len(items)})
