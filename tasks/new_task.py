"""A task that is to be enqueued, and the rules that it is held against before anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from monitoring import tracing
from pg.errors import Refused
from pg.json import dump_json
from pg.uuid7 import uuid7
from tasks.known import policy_for
from tasks.models import Dependency, TaskPriority
from tasks.payloads import find_fault

IDEMPOTENT_SECONDS = 86_400.0
LONGEST_SECONDS = 1e12  # PostgreSQL's intervals hold nine times as much
SECONDS_RULE = "must be more than 0, at most 1e12"
PRIORITIES, KINDS = TaskPriority.values, Dependency.Kind.values  # Django makes them anew at each look
PRIORITIES_RULE, KINDS_RULE = f"must be one of {PRIORITIES}", f"must be one of {KINDS}"
COMPLETION = Dependency.Kind.COMPLETION.value


class TaskRefused(Refused):
    """A task breaks a rule; nothing was enqueued."""


@dataclass(frozen=True)
class After:
    """What a task waits for: that the other task is completed (`completion`), has started once (`start`), has ended in
    whatever way (`resource`), or is completed and gives its result (`data`), which the handler finds in
    `context.inputs()` under `name` (None: the other's id)."""

    task_id: UUID
    kind: str = COMPLETION
    name: str | None = None


@dataclass(kw_only=True, slots=True)  # frozen, each would take five times as long to make
class NewTask:
    """A task to enqueue. None for priority, max_retries and timeout_seconds: what the type's handler declares.

    `scheduled_at`, `expires_at`: aware moments; not before the one, cancelled as expired when it has not started by the
    other. `depends_on`: tasks that must complete first, or an `After` for each; when one fails or is cancelled, so is
    this. `resources`: names of which no other running task may hold any.

    `unique_key`: only one open task may hold it, over all types; with `unique_until="start"` only until it starts, with
    `unique_seconds` for so long in any case. `idempotency_key`: as a unique key that is held for a day.
    `concurrency_key`: whom the work is for; limits and turns go by it. `assigned_agent`: only that agent may claim it.
    `task_id`: chosen by the caller, with `pg.uuid7.uuid7()`.
    """

    task_type: str
    payload: Any = field(default_factory=dict)
    name: str | None = None
    priority: str | None = None
    scheduled_at: datetime | None = None
    expires_at: datetime | None = None
    depends_on: Sequence[UUID | After] = ()
    resources: Sequence[str] = ()
    parent: UUID | None = None
    unique_key: str | None = None
    unique_until: str = "end"
    unique_seconds: float | None = None
    idempotency_key: str | None = None
    concurrency_key: str | None = None
    assigned_agent: UUID | None = None
    created_by_agent: UUID | None = None
    task_id: UUID | None = None
    max_retries: int | None = None
    timeout_seconds: float | None = None


def row_of(task: NewTask) -> dict[str, Any]:
    """Return the task's columns, defaults filled in, and its edges; raise TaskRefused with name, value and rule."""
    policy = policy_for(task.task_type)
    _require_length("task_type", task.task_type, 100)
    priority = policy.priority if task.priority is None else task.priority
    _require("priority", priority, priority in PRIORITIES, PRIORITIES_RULE)
    max_retries = policy.max_retries if task.max_retries is None else task.max_retries
    _require(
        "max_retries", max_retries, 0 <= max_retries < 1 << 31, "must be 0 or more, less than 2147483648"
    )
    timeout_seconds = policy.timeout_seconds if task.timeout_seconds is None else task.timeout_seconds
    _require("timeout_seconds", timeout_seconds, 0 < timeout_seconds <= LONGEST_SECONDS, SECONDS_RULE)
    unique_key, unique_seconds = _key_of(task)
    edges = edges_of(task) if task.depends_on else []
    for resource in task.resources:
        _require_length("resources", resource, 255)
    _require_length("concurrency_key", task.concurrency_key, 255)
    _require_length("name", task.name, 255)
    _require_zone("scheduled_at", task.scheduled_at)
    _require_zone("expires_at", task.expires_at)
    return {
        "task_id": task.task_id or uuid7(),
        "task_type": task.task_type,
        "task_name": task.name,
        "payload": _payload_of(task, policy.payload_schema),
        "priority": str(priority),
        # tasks.queue would see to it by a trigger: for a task that may start later it does
        "status": "pending" if edges or task.scheduled_at else "queued",
        "scheduled_at": task.scheduled_at,
        "expires_at": task.expires_at,
        "max_retries": max_retries,
        "timeout_seconds": float(timeout_seconds),
        "unique_key": unique_key,
        "concurrency_key": task.concurrency_key,
        "assigned_agent": task.assigned_agent,
        "created_by": task.created_by_agent,
        "parent": task.parent,
        "resources": list(task.resources) or None,
        "unique_seconds": unique_seconds,
        "free_at_start": task.unique_until == "start",
        # what it will be, where all of them are open: if not, the edges' trigger counts again
        "blocked_by": len(edges) or None,
        "edges": edges,
        "metadata": dump_json({tracing.HEADER: trace}) if (trace := tracing.traceparent()) else "{}",
    }


def _key_of(task: NewTask) -> tuple[str | None, float | None]:
    """Return the task's key, and for how many seconds it is held at least."""
    _require("unique_until", task.unique_until, task.unique_until in ("start", "end"), "must be start or end")
    seconds = task.unique_seconds
    _require("unique_seconds", seconds, seconds is None or seconds > 0, "must be more than 0")
    if task.idempotency_key is None:
        _require_length("unique_key", task.unique_key, 255)
        return task.unique_key, seconds
    _require("unique_key", task.unique_key, task.unique_key is None, "not together with idempotency_key")
    _require_length("idempotency_key", task.idempotency_key, 240)
    return f"idempotency:{task.idempotency_key}", IDEMPOTENT_SECONDS if seconds is None else seconds


def _require(name: str, value: object, is_right: bool, rule: str) -> None:
    if not is_right:
        raise TaskRefused(f"{name}={value!r}: {rule}")


def _require_length(name: str, value: str | None, longest: int) -> None:
    if value is not None and not 1 <= len(value) <= longest:
        raise TaskRefused(f"{name}={value!r}: must have 1 to {longest} characters")


def _require_zone(name: str, moment: datetime | None) -> None:
    _require(name, moment, moment is None or moment.tzinfo is not None, "must have a time zone")


def _payload_of(task: NewTask, schema: Mapping[str, Any] | None) -> str:
    try:
        text = dump_json(task.payload)
    except ValueError as error:
        raise TaskRefused(f"payload of {task.task_type}: {error}") from error
    fault = find_fault(task.payload, schema) if schema is not None else None
    if fault:
        raise TaskRefused(
            f"payload of {task.task_type}: {fault}", "see `manage.py tasks types` for its schema"
        )
    return text


def edges_of(task: NewTask) -> list[UUID | After]:
    """Return what the task waits for, as it was given, each other task once; raise as `row_of` does."""
    edges: dict[UUID, UUID | After] = {}
    for other in task.depends_on:
        if isinstance(other, After):
            _require("kind", other.kind, other.kind in KINDS, KINDS_RULE)
            _require("name", other.name, other.name is None or other.kind == "data", "only data has a name")
            _require_length("name", other.name, 255)
            edges[other.task_id] = other
        else:
            edges[other] = other
    return list(edges.values())
