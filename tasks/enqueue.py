"""Put tasks into the queue, in the caller's transaction: rolled back with it, visible and run after it commits."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction

from pg.errors import Refused
from pg.json import dump_json
from pg.queries import Queries
from pg.uuid7 import uuid7
from tasks import tickets
from tasks.models import TaskPriority
from tasks.registry import policy_of
from tasks.signals import tasks_changed

QUERIES = Queries("tasks")
KEY_ATTEMPTS = 5  # a holder may end between the conflict and the look at who it is


class TaskRefused(Refused):
    """A task breaks a rule; nothing was enqueued."""


@dataclass(frozen=True, kw_only=True)
class NewTask:
    """A task to enqueue. None for priority, max_retries and timeout_seconds: what the type's handler declares.

    `scheduled_at`, `expires_at`: aware moments; not before the one, cancelled as expired when it has not started by the
    other. `depends_on`: tasks that must complete first; when one fails or is cancelled, so is this. `unique_key`: only
    one open task may hold it, over all types. `concurrency_key`: whom the work is for; limits and turns go by it.
    `assigned_agent`: only that agent may claim it.
    """

    task_type: str
    payload: Any = field(default_factory=dict)
    name: str | None = None
    priority: str | None = None
    scheduled_at: datetime | None = None
    expires_at: datetime | None = None
    depends_on: Sequence[UUID] = ()
    parent: UUID | None = None
    unique_key: str | None = None
    concurrency_key: str | None = None
    assigned_agent: UUID | None = None
    created_by_agent: UUID | None = None
    max_retries: int | None = None
    timeout_seconds: float | None = None


def enqueue(task_type: str, payload: Any = None, **options: Any) -> UUID:
    """Enqueue one task and return its id; `options` are the fields of NewTask.

    Where an open task holds its `unique_key`, nothing is enqueued and that task's id is returned.
    Raises TaskRefused, before anything is written, for what breaks a rule.
    """
    return enqueue_many(
        [NewTask(task_type=task_type, payload={} if payload is None else payload, **options)]
    )[0]


def enqueue_many(tasks: Iterable[NewTask]) -> list[UUID]:
    """Enqueue tasks by one statement (and one for their dependencies); return their ids in the same order.

    For a `unique_key` that is taken, by an open task or an earlier one of the same call, the holder's id is returned.
    All or nothing: raises TaskRefused when one of them breaks a rule.
    """
    tasks = list(tasks)
    rows = [_row_of(task) for task in tasks]
    if not rows:
        return []
    try:
        with transaction.atomic():
            ids = _insert(rows)
            _add_dependencies(tasks, rows, ids)
    except IntegrityError as error:
        raise _refusal(error) from error
    if tasks_changed.has_listeners():
        tasks_changed.send(None, task_ids=ids)
    tickets.send_on_commit(task.task_type for task in tasks)
    return ids


def _insert(rows: list[dict[str, Any]]) -> list[UUID]:
    """Insert what is to be inserted; return for each row its own id or that of its key's holder."""
    settled: dict[UUID, UUID] = {}
    left = rows
    for _ in range(KEY_ATTEMPTS):
        stored = {row["task_id"] for row in QUERIES.run("enqueue", _arrays(left))}
        settled |= {task_id: task_id for task_id in stored}
        left = [row for row in left if row["task_id"] not in stored]
        if not left:
            break
        keys = [row["unique_key"] for row in left]
        holders = {
            row["unique_key"]: row["task_id"] for row in QUERIES.run("key_holders", {"unique_keys": keys})
        }
        settled |= {
            row["task_id"]: holders[row["unique_key"]] for row in left if row["unique_key"] in holders
        }
        left = [row for row in left if row["unique_key"] not in holders]
        if not left:
            break
    else:
        raise TaskRefused(f"unique_key={left[0]['unique_key']!r}: it changes hands too fast", "try again")
    return [settled[row["task_id"]] for row in rows]


def _arrays(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Turn rows into one array per column, as unnest wants them."""
    plural = {"timeout_seconds": "timeouts", "priority": "priorities", "max_retries": "max_retries"}
    return {plural.get(name, f"{name}s"): [row[name] for row in rows] for name in rows[0]}


def _add_dependencies(tasks: list[NewTask], rows: list[dict[str, Any]], ids: list[UUID]) -> None:
    pairs = [
        (task_id, earlier)
        for task, row, task_id in zip(tasks, rows, ids, strict=True)
        if task_id == row["task_id"]
        for earlier in dict.fromkeys(task.depends_on)
    ]
    if pairs:
        waiting, earlier = zip(*pairs, strict=True)
        QUERIES.run("add_dependencies", {"task_ids": list(waiting), "depends_on": list(earlier)})


# -- rules --------------------------------------------------------------------------------------------------
def _row_of(task: NewTask) -> dict[str, Any]:
    """Return the task's columns, defaults filled in; raise TaskRefused with the name, the value and the rule."""
    policy = policy_of(task.task_type)
    priority = policy.priority if task.priority is None else task.priority
    max_retries = policy.max_retries if task.max_retries is None else task.max_retries
    timeout_seconds = policy.timeout_seconds if task.timeout_seconds is None else task.timeout_seconds
    _require("task_type", task.task_type, 1 <= len(task.task_type) <= 100, "must have 1 to 100 characters")
    _require("priority", priority, priority in TaskPriority.values, f"must be one of {TaskPriority.values}")
    _require("max_retries", max_retries, max_retries >= 0, "must be 0 or more")
    _require("timeout_seconds", timeout_seconds, timeout_seconds > 0, "must be more than 0")
    _require_length("unique_key", task.unique_key, 255)
    _require_length("concurrency_key", task.concurrency_key, 255)
    _require_length("name", task.name, 255)
    for name, moment in (("scheduled_at", task.scheduled_at), ("expires_at", task.expires_at)):
        _require(name, moment, moment is None or moment.tzinfo is not None, "must have a time zone")
    return {
        "task_id": uuid7(),
        "task_type": task.task_type,
        "task_name": task.name,
        "payload": _payload_of(task),
        "priority": str(priority),
        "scheduled_at": task.scheduled_at,
        "expires_at": task.expires_at,
        "max_retries": max_retries,
        "timeout_seconds": float(timeout_seconds),
        "unique_key": task.unique_key,
        "concurrency_key": task.concurrency_key,
        "assigned_agent": task.assigned_agent,
        "created_by": task.created_by_agent,
        "parent": task.parent,
    }


def _require(name: str, value: object, is_right: bool, rule: str) -> None:
    if not is_right:
        raise TaskRefused(f"{name}={value!r}: {rule}")


def _require_length(name: str, value: str | None, longest: int) -> None:
    if value is not None:
        _require(name, value, 1 <= len(value) <= longest, f"must have 1 to {longest} characters")


def _payload_of(task: NewTask) -> str:
    try:
        return dump_json(task.payload)
    except ValueError as error:
        raise TaskRefused(f"payload of {task.task_type}: {error}") from error


REFUSALS = {
    "no_dependency_cycle": "the dependencies form a cycle",
    "no_self_dependency": "a task cannot depend on itself",
    "dependency_can_complete": "a task that it depends on has failed or was cancelled",
    "dependencies_depends_on_task_id_fkey": "a task that it depends on does not exist",
    "parent_task_id": "the parent task does not exist",
    "assigned_agent_id": "the assigned agent does not exist",
    "created_by_agent_id": "the creating agent does not exist",
    "valid_timing": "expires_at must lie in the future",
}


def _refusal(error: IntegrityError) -> TaskRefused:
    """Name the rule that the database enforced; its own words for one that we do not know."""
    diagnostics = getattr(error.__cause__, "diag", None)
    constraint = getattr(diagnostics, "constraint_name", None) or ""
    text = next((words for name, words in REFUSALS.items() if name in constraint), "")
    return TaskRefused(text or str(error).splitlines()[0], getattr(diagnostics, "message_detail", None) or "")


def parse_payload(text: str) -> Any:
    """Read a payload from a command line or a form; raise TaskRefused for what is not JSON."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise TaskRefused(f"payload={text!r}: not JSON: {error}", 'for instance {"path": "a.txt"}') from error
