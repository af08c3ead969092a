"""Tasks whose process ended while it had others in hand: nobody knows which of them ended it.

Such an attempt spends no retry (tasks.sweep). Whoever claims the task next runs it alone: if it ends that process too,
it was the one, and this time it spends a retry.
"""

from collections.abc import Sequence
from uuid import UUID

from pg.queries import Queries
from tasks.claim import Claimed

QUERIES = Queries("tasks")


def find_suspect(claimed: Sequence[Claimed]) -> Claimed | None:
    """Return the first that must run alone; None: they may run as they come.

    No query unless one of them has made an attempt that spent no retry.
    """
    suspects = died_in_company([item.task_id for item in claimed if item.attempt > item.retry_count + 1])
    return next((item for item in claimed if item.task_id in suspects), None)


def died_in_company(task_ids: list[UUID]) -> set[UUID]:
    rows = QUERIES.run("died_in_company", {"task_ids": task_ids}) if task_ids else []
    return {row["task_id"] for row in rows}
