"""What operators do to tasks: retry, re-run, redrive. `cancel` is in tasks.claim, pauses are in tasks.pauses."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from django.db import transaction

from operators.audit import Actor, record
from pg.errors import Refused
from pg.queries import Queries
from tasks import tickets
from tasks.claim import announce
from tasks.enqueue import enqueue
from tasks.models import Task

QUERIES = Queries("tasks")


class UnknownTask(Refused):
    """No task has this id."""


def get_task(task_id: UUID) -> Task:
    """Return the task; raise UnknownTask. One query, which looks into each leaf's key."""
    task = Task.objects.filter(pk=task_id).first()
    if task is None:
        raise UnknownTask(
            f"{task_id}: no such task", "see `manage.py tasks list`; finished ones go with retention"
        )
    return task


def retry(
    task_ids: Iterable[UUID], reason: str = "retried", by: Actor | None = None, action: str = "tasks.retry"
) -> list[UUID]:
    """Open failed and cancelled tasks again, with all their retries; return those that were. Safe to repeat.

    A passed `expires_at` is forgotten. `by`: who is recorded in the audit; None: nobody. Raises Refused where another
    open task holds a unique key by now.
    """
    from django.db import IntegrityError

    wanted = {"task_ids": sorted(set(task_ids))}
    try:
        with transaction.atomic():
            QUERIES.run("lock_tasks", wanted)
            rows = QUERIES.run("reopen", wanted | {"reason": reason})
            tickets.send_on_commit(row["task_type"] for row in rows)
            announce((row["task_id"] for row in rows), is_work=False)
            if by and rows:
                record(by, action, [row["task_id"] for row in rows], reason=reason)
    except IntegrityError as error:
        raise Refused(
            str(error).splitlines()[0], "cancel the task that holds it, or wait until it ends"
        ) from error
    return [row["task_id"] for row in rows]


def rerun(task_id: UUID, payload: Any = None, by: Actor | None = None, reason: str = "") -> UUID:
    """Enqueue a copy of a task, with another payload unless None; return the new id. The old one stays as it is.

    Raises TaskRefused for a payload that does not match the type's schema.
    """
    old = get_task(task_id)
    with transaction.atomic():
        new = enqueue_copy(old, old.payload if payload is None else payload)
        if by:
            details = {"rerun_of": str(task_id), "payload": "as before" if payload is None else "edited"}
            record(by, "tasks.rerun", [new], reason=reason, details=details)
    return new


def enqueue_copy(old: Task, payload: Any) -> UUID:
    return enqueue(
        old.task_type,
        payload,
        name=old.task_name,
        priority=old.priority,
        parent=old.parent_id,
        unique_key=old.unique_key,
        concurrency_key=old.concurrency_key,
        resources=old.resources or (),
        assigned_agent=old.assigned_agent_id,
        created_by_agent=old.created_by_agent_id,
        max_retries=old.max_retries,
        timeout_seconds=old.max_execution_time.total_seconds(),
    )


def failed_tasks(task_type: str | None, limit: int) -> list[UUID]:
    """Return the oldest failed tasks (the dead letters) of a type, or of all for None."""
    return [row["task_id"] for row in QUERIES.run("failed_tasks", {"task_type": task_type}, limit=int(limit))]


def redrive(
    task_type: str | None, limit: int, reason: str = "redriven", by: Actor | None = None
) -> list[UUID]:
    """Retry the oldest failed tasks; return them."""
    return retry(failed_tasks(task_type, limit), reason, by, action="tasks.redrive")


def with_children(task_ids: Iterable[UUID]) -> list[UUID]:
    """Return the tasks and their children, down the line."""
    return [row["task_id"] for row in QUERIES.run("with_children", {"task_ids": list(task_ids)})]
