"""Removal of finished tasks when their time is over, per type and status; failures stay longer.

Executions have partitions and a policy of their own, and outlive their task.

Rows go in batches that skip what somebody else holds: it may run twice, late or beside itself. A task whose result an
open one still waits to read is kept.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.db import connection, transaction

from operators.audit import Actor, record
from pg.errors import Refused
from pg.queries import Queries
from tasks.models import Retention
from tasks.policy import Policy

QUERIES = Queries("tasks")
BATCH = 1_000
COUNT_LIMIT = 10_000
UNREGISTERED = "*"
STATUSES = ("completed", "failed", "cancelled")


@dataclass(frozen=True)
class Rule:
    """Finished tasks of one type and status stay for `keep_days`; `leaf` is where they are, quoted."""

    task_type: str
    leaf: str
    status: str
    keep_days: float

    @property
    def parameters(self) -> dict[str, Any]:
        return {"status": self.status, "keep_days": self.keep_days}


def read_rules() -> list[Rule]:
    """Return what holds for each type: the operator's word, else the handler's. One query."""
    defaults = {f"default_{status}": getattr(Policy(), f"keep_{status}_days") for status in STATUSES}
    rows = QUERIES.run("retention_rules", defaults)
    return [
        Rule(row["task_type"], row["leaf"], status, row[f"keep_{status}_days"])
        for row in rows
        for status in STATUSES
    ]


def plan_prune() -> Iterator[tuple[Rule, int]]:
    """Yield each rule with how many tasks it would remove now, counted up to COUNT_LIMIT; none for 0."""
    for rule in read_rules():
        found = QUERIES.run("count_overdue", rule.parameters, leaf=rule.leaf, limit=COUNT_LIMIT)[0]["number"]
        if found:
            yield rule, found


def prune(seconds: float = 60) -> dict[str, int]:
    """Remove what is overdue, for `seconds` at most; return how many by status."""
    deadline = time.monotonic() + seconds
    counts = dict.fromkeys(STATUSES, 0)
    for rule in read_rules():
        while time.monotonic() < deadline:
            number = prune_batch(rule)
            counts[rule.status] += number
            if number < BATCH:
                break
    return counts


def prune_batch(rule: Rule, limit: int = BATCH) -> int:
    """Remove up to `limit` overdue tasks; return how many. One look, and one statement that removes."""
    rows = QUERIES.run("overdue", rule.parameters, leaf=rule.leaf, limit=int(limit))
    if not rows:
        return 0
    with connection.cursor() as cursor:
        found = {"task_ids": [row["task_id"] for row in rows]}
        cursor.execute(QUERIES.text("prune", leaf=rule.leaf), rule.parameters | found)
        return int(cursor.rowcount)


def keep(task_type: str, days: dict[str, float | None], by: Actor, reason: str = "") -> Retention:
    """Set how long tasks of a type stay, by status; None: as its handler declares. `*`: unregistered types."""
    for status, value in days.items():
        if value is not None and value < 0:
            raise Refused(f"keep_{status}_days={value}: must be 0 or more")
    told = {f"keep_{status}_days": value for status, value in days.items()}
    with transaction.atomic():
        row, _ = Retention.objects.update_or_create(
            task_type=task_type, defaults={**told, "declared_by": by.name}
        )
        record(by, "tasks.keep", [task_type], reason=reason, details=told)
    return row
