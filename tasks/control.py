"""What operators do to tasks: retry, re-run, redrive. `cancel` is in tasks.claim, pauses are in tasks.pauses."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from django.db import transaction

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


def retry(task_ids: Iterable[UUID], reason: str = "retried") -> list[UUID]:
    """Open failed and cancelled tasks again, with all their retries; return those that were. Safe to repeat.

    A passed `expires_at` is forgotten. Raises Refused where another open task holds a unique key by now.
    """
    from django.db import IntegrityError

    try:
        with transaction.atomic():
            rows = QUERIES.run("reopen", {"task_ids": sorted(set(task_ids)), "reason": reason})
            tickets.send_on_commit(row["task_type"] for row in rows)
            announce(row["task_id"] for row in rows)
    except IntegrityError as error:
        raise Refused(
            str(error).splitlines()[0], "cancel the task that holds it, or wait until it ends"
        ) from error
    return [row["task_id"] for row in rows]


def rerun(task_id: UUID, payload: Any = None) -> UUID:
    """Enqueue a copy of a task, with another payload unless None; return the new id. The old one stays as it is."""
    old = get_task(task_id)
    return enqueue(
        old.task_type,
        old.payload if payload is None else payload,
        name=old.task_name,
        priority=old.priority,
        parent=old.parent_id,
        unique_key=old.unique_key,
        assigned_agent=old.assigned_agent_id,
        created_by_agent=old.created_by_agent_id,
        max_retries=old.max_retries,
        timeout_seconds=old.max_execution_time.total_seconds(),
    )


def failed_tasks(task_type: str | None, limit: int) -> list[UUID]:
    """Return the oldest failed tasks (the dead letters) of a type, or of all for None."""
    return [row["task_id"] for row in QUERIES.run("failed_tasks", {"task_type": task_type}, limit=int(limit))]


def redrive(task_type: str | None, limit: int, reason: str = "redriven") -> list[UUID]:
    """Retry the oldest failed tasks; return them."""
    return retry(failed_tasks(task_type, limit), reason)
