"""Cancel, retry, pause or resume all tasks that match a filter, as a tracked job (operators.bulk).

A filter is a dict of strings: `task_type`, `status`, `priority`, `queue`, `error` (part of the status reason),
`created_before`, `created_after` (ISO 8601), `parent`. It must say something.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from operators.audit import Actor
from operators.bulk import Batch, BulkAction, register_bulk
from pg.errors import Refused
from pg.queries import Queries
from tasks.claim import cancel
from tasks.control import retry
from tasks.models import TaskPriority, TaskStatus
from tasks.task_pauses import pause_tasks, resume_tasks

QUERIES = Queries("tasks")
FIRST = UUID(int=0)
CONDITIONS = {
    "task_type": "q.task_type = %(task_type)s",
    "status": "q.status = %(status)s::task_status_type",
    "priority": "q.priority = %(priority)s::task_priority_type",
    "queue": "q.task_type IN (SELECT t.task_type FROM tasks.types t WHERE t.queue = %(queue)s)",
    "error": "strpos(lower(q.status_reason), lower(%(error)s)) > 0",
    "created_before": "q.created_at < %(created_before)s::timestamptz",
    "created_after": "q.created_at >= %(created_after)s::timestamptz",
    "parent": "q.parent_task_id = %(parent)s::uuid",
}
Change = Callable[[Iterable[UUID], str], list[UUID]]
# which tasks are in a state for it
OPEN = "q.status IN ('pending', 'queued', 'running', 'paused')"
RETRIABLE = "q.status IN ('failed', 'cancelled')"
PAUSABLE = "q.status IN ('pending', 'queued', 'running')"
PAUSED = (
    "(q.status = 'paused' OR q.status = 'running' AND EXISTS (SELECT FROM tasks.task_pauses p"
    " WHERE p.task_id = q.task_id AND p.resumed_at IS NULL))"
)


def register() -> None:
    """Add our bulk actions; each acts only on tasks that are in a state for it."""
    actions: tuple[tuple[str, str, Change, str], ...] = (
        ("tasks.cancel_all", "Cancel tasks", cancel, OPEN),
        ("tasks.retry_all", "Retry failed and cancelled tasks", retry, RETRIABLE),
        ("tasks.pause_all", "Pause tasks", pause_tasks, PAUSABLE),
        ("tasks.resume_all", "Resume paused tasks", resume_tasks, PAUSED),
    )
    for name, title, change, fitting in actions:
        register_bulk(BulkAction(name, title, counter(fitting), runner(change, fitting)))


def counter(fitting: str) -> Callable[[dict[str, Any]], int]:
    def count(filters: dict[str, Any]) -> int:
        text, values = where(filters, fitting)
        return int(QUERIES.run("count_matching", values, filter=text)[0]["number"])

    return count


def runner(change: Change, fitting: str) -> Callable[[dict[str, Any], Any, int, Actor], Batch]:
    def run_batch(filters: dict[str, Any], position: Any, limit: int, by: Actor) -> Batch:
        text, values = where(filters, fitting)
        values["position"] = UUID(position) if position else FIRST
        ids = [row["task_id"] for row in QUERIES.run("matching_tasks", values, filter=text, limit=int(limit))]
        done, failed, error = change_each(change, ids, f"bulk job of {by.name}")
        return Batch(done, str(ids[-1]) if len(ids) == limit else None, failed, error)

    return run_batch


def change_each(change: Change, ids: list[UUID], reason: str) -> tuple[int, int, str]:
    """Change all at once, or one by one where one of them is refused; return done, failed, and the last refusal."""
    try:
        return len(change(ids, reason)) if ids else 0, 0, ""
    except Refused as error:
        if len(ids) == 1:
            return 0, 1, str(error)
    results = [change_each(change, [task_id], reason) for task_id in ids]
    errors = [error for _, _, error in results if error]
    return sum(done for done, _, _ in results), len(errors), errors[-1] if errors else ""


def where(filters: dict[str, Any], fitting: str) -> tuple[str, dict[str, Any]]:
    """Return the condition, `fitting` in it, and its values. Raises Refused for a filter that makes no sense."""
    unknown = set(filters) - set(CONDITIONS)
    if unknown or not filters:
        what = f"unknown: {', '.join(sorted(unknown))}" if unknown else "it is empty"
        raise Refused(f"filter: {what}", f"use {', '.join(CONDITIONS)}")
    for name, known in (("status", TaskStatus.values), ("priority", TaskPriority.values)):
        if name in filters and filters[name] not in known:
            raise Refused(f"{name}={filters[name]!r}: must be one of {', '.join(known)}")
    for name in ("created_before", "created_after"):
        if name in filters and datetime.fromisoformat(filters[name]).tzinfo is None:
            raise Refused(f"{name}={filters[name]}: must have a time zone")
    return " AND ".join([fitting, *(CONDITIONS[name] for name in filters)]), dict(filters)
