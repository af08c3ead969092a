"""Figures about the queue, at bounded cost."""

from typing import Any

from pg.queries import Queries
from tasks.claim import lease_seconds

QUERIES = Queries("tasks")
COUNT_LIMIT = 10_000
DEFAULT_NAME = "(unregistered)"


def count_tasks(limit: int = COUNT_LIMIT) -> list[dict[str, Any]]:
    """Return {task_type, status, number} for each that has any. At most `limit` rows of each are counted: a number of
    `limit` means that many or more. Rows of unregistered types come together."""
    rows = QUERIES.run("count_tasks", limit=int(limit))
    return [{**row, "task_type": row["task_type"] or DEFAULT_NAME} for row in rows]


def count_running() -> int:
    return sum(row["number"] for row in count_tasks() if row["status"] == "running")


def oldest_ready_seconds(of_workers: bool = False) -> float | None:
    """Return the age of the oldest ready task; None: nothing is ready. One index probe per leaf.

    `of_workers`: without the types that only agents outside Celery do.
    """
    value = QUERIES.run("oldest_ready", {"of_workers": of_workers})[0]["age_seconds"]
    return None if value is None else max(0.0, float(value))


def recent_executions(limit: int = 100_000) -> dict[str, int]:
    """Return attempts completed in the last minute, and failed in the last hour, among the newest `limit`."""
    return QUERIES.run("recent_executions", limit=int(limit))[0]


def executions_by_minute(limit: int = 100_000) -> list[dict[str, Any]]:
    """Return {minute, completed, failed, is_whole} for each of the last 60 minutes, oldest first, the present one last.

    Only the newest `limit` attempts are read: minutes before them, which these leave incomplete, are not `is_whole`.
    """
    return QUERIES.run("executions_by_minute", limit=int(limit))


def count_living_workers() -> int:
    """Return how many worker processes have shown life within one lease."""
    return int(QUERIES.run("living_workers", {"silence_seconds": lease_seconds()})[0]["number"])
