"""What makes up for everything that was lost: tickets, workers, leases, moments that came.

Each step takes rows that nobody else holds (SKIP LOCKED) and moves them on where their old state still holds, so
several sweeps at once, or one that dies half-way, do no harm.
"""

import json
from typing import Any
from uuid import UUID

from django.db import transaction

from agents.registry import terminate_agent
from pg.queries import Queries
from tasks import known, tickets
from tasks.claim import Failure, announce, cancel, settle_failure
from tasks.known import policy_for
from tasks.leaves import register_types
from tasks.pauses import end_pauses
from tasks.task_pauses import end_task_pauses

QUERIES = Queries("tasks")
BATCH = 1000


def sweep() -> dict[str, int]:
    """Do each step once; return how many rows it moved."""
    counts = {
        "types": len(register_types(timeout_seconds=5)),
        "expired": cancel_expired(),
        "promoted": promote_due(),
        "taken_back": take_back_leases(),
        "workers": terminate_lost_workers(),
        "resumed": end_pauses() + end_task_pauses(),
        "keys": len(QUERIES.run("free_old_keys")),
        "woken": len(QUERIES.run("wake_waiters")),
    }
    QUERIES.run("forget_starts")
    return counts | {"tickets": send_tickets()}


def send_tickets() -> int:
    """Send a ticket for every registered type that has ready tasks and is not paused."""
    ready = [row["task_type"] for row in QUERIES.run("ready_types")]
    known.learn(ready)
    tickets.send_now(ready)
    return len(ready)


def promote_due() -> int:
    """Make pending tasks ready whose scheduled_at has come."""
    return _announced(QUERIES.run("promote_due", limit=BATCH))


def cancel_expired() -> int:
    """Cancel tasks that did not start before their expires_at."""
    with transaction.atomic():
        rows = QUERIES.run("expired_tasks", limit=BATCH)
        return len(cancel([row["task_id"] for row in rows], "expired")) if rows else 0


def take_back_leases() -> int:
    """Fail the attempts whose lease ran out, their worker being dead or stuck: tried again, or failed for good.

    Of several tasks in one Celery process's hand only one can have begun: none of them spends a retry, and whoever
    claims them next runs each alone (tasks.company), so that the one which ends processes is found.
    """
    with transaction.atomic():
        rows = QUERIES.run("expired_leases", limit=BATCH)
        in_hand = count_in_hand({row["worker"] for row in rows})
        for worker, held in group_by_worker(rows).items():
            if in_hand.get(worker, 1) > 1:
                take_back_hand(worker, held, in_hand[worker])
            else:
                for row in held:
                    take_back(row)
    return len(rows)


def count_in_hand(workers: set[UUID]) -> dict[UUID, int]:
    """Return how many tasks each Celery process holds; without other agents, which may run many at once."""
    rows = QUERIES.run("tasks_in_hand", {"workers": list(workers)}) if workers else []
    return {row["worker"]: row["number"] for row in rows}


def group_by_worker(rows: list[dict[str, Any]]) -> dict[UUID, list[dict[str, Any]]]:
    groups: dict[UUID, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["worker"], []).append(row)
    return groups


def take_back_hand(worker: UUID, held: list[dict[str, Any]], in_hand: int) -> None:
    reason = f"lease expired: worker {worker} is lost or stuck; {in_hand} tasks were in its hand, no retry is spent"
    details = {"type": "lease_expired", "worker": str(worker), "in_hand": in_hand}
    parameters = {
        "worker": worker,
        "task_ids": [row["task_id"] for row in held],
        "task_types": [row["task_type"] for row in held],
        "attempts": [row["attempt"] for row in held],
        "reason": reason,
        "error_details": json.dumps(details),
    }
    back = QUERIES.run("take_back_hand", parameters)
    tickets.send_on_commit(row["task_type"] for row in back)
    _announced(back)


def take_back(row: dict[str, Any]) -> str:
    retry_count = row.pop("retry_count")
    failure = Failure(
        f"lease expired: worker {row['worker']} is lost or stuck",
        {"type": "lease_expired", "worker": str(row["worker"])},
    )
    nothing = {"cpu_time_ms": None, "memory_peak_mb": None, "io_operations": None, "execution_id": None}
    nothing["logs"] = None
    delay = policy_for(row["task_type"]).delay_seconds(retry_count)
    return settle_failure({**row, **nothing, "delay_seconds": delay}, failure)


def terminate_lost_workers() -> int:
    """Terminate worker processes whose heartbeats stopped for good; their leases ran out long before."""
    lost = [row["agent_id"] for row in QUERIES.run("lost_workers")]
    for agent_id in lost:
        terminate_agent(agent_id, reason="no heartbeat")
    return len(lost)


def _announced(rows: list[dict[str, Any]]) -> int:
    announce(row["task_id"] for row in rows)
    if rows:
        tickets.tell_on_commit()
    return len(rows)
