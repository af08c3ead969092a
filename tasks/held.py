"""What an agent that claims for itself has leased: its own copy may be lost, with an answer or with its process."""

import json
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from pg.queries import Queries
from tasks.turn import Claimed

QUERIES = Queries("tasks")
MOST = 1_000


def held_by(agent_id: UUID) -> list[Claimed]:
    """Return what is leased to the agent, the lease that ends first before the others; MOST at most. Two queries."""
    rows = QUERIES.run("leased_to", {"worker": agent_id}, limit=MOST)
    found = {item.task_id: item for item in held_of(agent_id, (row["task_id"] for row in rows))}
    return [found[row["task_id"]] for row in rows if row["task_id"] in found]


def held_of(agent_id: UUID, task_ids: Iterable[UUID]) -> list[Claimed]:
    """Return those of the tasks that are leased to the agent, in no order. One query."""
    parameters = {"worker": agent_id, "task_ids": list(task_ids)}
    return [read(row) for row in QUERIES.run("held_of", parameters)] if parameters["task_ids"] else []


def read(row: dict[str, Any]) -> Claimed:
    return Claimed(**{**row, "payload": json.loads(row["payload"])})


def statuses_of(task_ids: Iterable[UUID]) -> dict[UUID, str]:
    """Return where these tasks are now; without those that there are not. One query."""
    rows = QUERIES.run("statuses_of", {"task_ids": list(task_ids)})
    return {row["task_id"]: str(row["status"]) for row in rows}


def ready_among(task_types: Iterable[str]) -> set[str]:
    """Return those of the registered types that have ready tasks, for whomever. One query, an index probe per type."""
    rows = QUERIES.run("ready_among", {"task_types": sorted(set(task_types))})
    return {row["task_type"] for row in rows}
