"""Claim tasks, and settle what was claimed: the same plain functions for every kind of worker.

A claim leases a task to a worker (an agent's id) for `lease_seconds()`, renewed by `heartbeat_leases`. Whoever's lease
ran out finds that finish, fail and progress change nothing and return that: `worker` and `attempt` fence late writers.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db import transaction

from operators.audit import Actor, record
from pg.json import dump_json
from pg.queries import Queries
from tasks import tickets
from tasks.known import policy_for
from tasks.leaves import leaf_of
from tasks.signals import tasks_changed
from tasks.turn import Claimed, Ended, Turn, grace_seconds, lease_limits, lease_seconds, take_turn
from tasks.usage import Usage

__all__ = ["Claimed", "Ended", "Usage", "grace_seconds", "lease_limits", "lease_seconds"]
QUERIES = Queries("tasks")
MAX_PARKING = 50  # so many statements; the sweep sends a ticket for what is behind them


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed. `details` go into executions.error_details.

    `delay_seconds`: before the next attempt; None: by the type's policy.
    """

    message: str
    details: dict[str, Any] = field(default_factory=dict)
    is_permanent: bool = False
    delay_seconds: float | None = None


def claim(task_type: str, worker: UUID, limit: int = 1, limit_if_limited: int | None = None) -> list[Claimed]:
    """Lease up to `limit` ready tasks to agent `worker`, best priority first, then oldest; [] where there are none.

    One statement, again (MAX_PARKING times at most) where it parked tasks whose resources are taken. Leaves out paused
    types, expired tasks, tasks assigned to another agent, and what limits do not let start. `limit_if_limited`: so many
    where a limit bounds the type.
    """
    return finish_and_claim(task_type, worker, (), limit, limit_if_limited)[1]


def has_ready(task_type: str) -> bool:
    """Tell whether a task of the type is ready for any worker. One index probe."""
    return bool(QUERIES.run("has_ready", {"task_type": task_type}, leaf=leaf_of(task_type))[0]["found"])


def finish(claimed: Claimed, result: Any, usage: Usage | None = None, logs: str | None = None) -> bool:
    """Complete the task and release what waits for it; return False, nothing changed, where it is not ours any more.

    Raises ValueError for a result that JSON cannot hold.
    """
    return bool(finish_many([Ended(claimed, result, usage or Usage(), logs)]))


def finish_many(ended: Sequence[Ended]) -> set[UUID]:
    """Complete tasks, those of one type and worker by one statement; return which of them were still their worker's."""
    stored: set[UUID] = set()
    for task_type, worker in sorted({(item.claimed.task_type, item.claimed.worker) for item in ended}):
        same = [
            item for item in ended if (item.claimed.task_type, item.claimed.worker) == (task_type, worker)
        ]
        stored |= finish_and_claim(task_type, worker, same, 0)[0]
    return stored


def finish_and_claim_next(
    claimed: Claimed, result: Any, usage: Usage | None = None, limit: int = 1, logs: str | None = None
) -> tuple[bool, list[Claimed]]:
    """`finish`, and `claim` for the same type and worker, in one transaction: one commit per task."""
    ended = Ended(claimed, result, usage or Usage(), logs)
    stored, following = finish_and_claim(claimed.task_type, claimed.worker, [ended], limit)
    return bool(stored), following


def finish_and_claim(
    task_type: str, worker: UUID, ended: Sequence[Ended], limit: int, limit_if_limited: int | None = None
) -> tuple[set[UUID], list[Claimed]]:
    """Complete tasks of one type and worker, and claim up to `limit` others; return what was stored, and the claims.

    One statement and one commit, however many tasks, unless tasks were parked.
    """
    turn = take_turn(task_type, worker, ended, limit, limit_if_limited)
    _tell(task_type, turn)
    stored, claimed = turn.stored, turn.claimed
    for _ in range(MAX_PARKING - 1):
        if not turn.parked or len(claimed) >= limit:
            break
        turn = take_turn(task_type, worker, (), limit - len(claimed), limit_if_limited)
        _tell(task_type, turn)
        claimed += turn.claimed
    return set(stored), claimed


def _tell(task_type: str, turn: Turn) -> None:
    """Tell of what a turn did. Where fewer tasks began than ended, a limit may let another one start. Who has claimed
    some of the type comes back for more of it: others need not be called at once."""
    mine = {task_type} & turn.next_types if turn.claimed else set()
    tickets.send_on_commit(turn.next_types - mine)
    tickets.send_on_commit(mine, within_seconds=tickets.HELP_SECONDS)
    if len(turn.claimed) < len(turn.stored):
        tickets.tell_on_commit()
    announce((*turn.stored, *(item.task_id for item in turn.claimed), *turn.parked))


def fail(claimed: Claimed, failure: Failure, usage: Usage | None = None, logs: str | None = None) -> str:
    """Record the failure; return the task's new status: `pending` or `queued` (tried again), `failed`, or `lost`.

    `lost`: it is not ours any more, nothing was changed. It is tried again after the failure's delay, or that of the
    type's policy, unless the failure is permanent or the retries are spent.
    """
    delay = failure.delay_seconds
    if delay is None:
        delay = policy_for(claimed.task_type).delay_seconds(claimed.retry_count)
    parameters = {
        **vars(usage or Usage()),
        "execution_id": claimed.execution_id,
        "delay_seconds": delay,
        "logs": logs,
    }
    return settle_failure({**claimed.fence, **parameters}, failure)


def settle_failure(parameters: dict[str, Any], failure: Failure) -> str:
    """Run the statement of `fail`; `parameters` has the fence, the usage, the delay and the execution (or None)."""
    task_type: str = parameters["task_type"]
    told = {
        "may_retry": not failure.is_permanent,
        "reason": failure.message,
        "error_details": json.dumps(failure.details),
    }
    with transaction.atomic(savepoint=False):
        rows = QUERIES.run("fail", {**parameters, **told}, leaf=leaf_of(task_type))
        status = str(rows[0]["status"]) if rows else "lost"
        if status == "queued":
            tickets.send_on_commit([task_type])
        if rows:
            tickets.tell_on_commit()
            announce([parameters["task_id"]])
    return status


def heartbeat_leases(worker: UUID, claimed: Iterable[Claimed]) -> set[UUID]:
    """Renew the leases of a worker's tasks by one UPDATE; return the ids that are still its own.

    An id that is missing was cancelled or taken over: its handler works for nothing. A lease never outlives
    max_execution_time by more than the grace and a margin.
    """
    mine = list(claimed)
    if not mine:
        return set()
    parameters = {
        "worker": worker,
        "task_ids": [item.task_id for item in mine],
        "task_types": [item.task_type for item in mine],
        "attempts": [item.attempt for item in mine],
        **lease_limits(),
    }
    return {row["task_id"] for row in QUERIES.run("heartbeat_leases", parameters)}


def give_back(claimed: Sequence[Claimed]) -> list[UUID]:
    """Make claimed tasks of one type and worker, which nobody has begun, ready again; return those that were ours.

    The attempts stay, as cancelled; no retry is spent.
    """
    if not claimed:
        return []
    task_type = claimed[0].task_type
    parameters = {
        "task_type": task_type,
        "worker": claimed[0].worker,
        "task_ids": [item.task_id for item in claimed],
        "attempts": [item.attempt for item in claimed],
        "execution_ids": [item.execution_id for item in claimed],
    }
    with transaction.atomic(savepoint=False):
        rows = QUERIES.run("give_back", parameters, leaf=leaf_of(task_type))
        announce(row["task_id"] for row in rows)
        tickets.send_on_commit([task_type] if rows else [])
    return [row["task_id"] for row in rows]


def is_mine(claimed: Claimed) -> bool:
    """Tell whether the task is still leased to this attempt."""
    return bool(QUERIES.run("is_mine", claimed.fence, leaf=leaf_of(claimed.task_type))[0]["found"])


def set_progress(claimed: Claimed, percent: float | None, note: str) -> bool:
    """Show how far the attempt is; return False, nothing changed, where the task is not ours any more."""
    parameters = {**claimed.fence, "progress": dump_json({"percent": percent, "note": note})}
    rows = QUERIES.run("set_progress", parameters, leaf=leaf_of(claimed.task_type))
    announce(row["task_id"] for row in rows)
    return bool(rows)


def cancel(task_ids: Iterable[UUID], reason: str = "cancelled", by: Actor | None = None) -> list[UUID]:
    """Cancel open tasks; return those that were. Finished and unknown ones are left as they are. Safe to repeat.

    What waits for them is cancelled too. A running one's handler sees `is_cancelled()` and its late result changes
    nothing; where it goes on for `grace_seconds()` after its worker noticed, its process is replaced. `by`: who is
    recorded in the audit; None: nobody.
    """
    wanted = {"task_ids": sorted(set(task_ids))}
    with transaction.atomic():
        QUERIES.run("lock_tasks", wanted)
        rows = QUERIES.run("cancel", wanted | {"reason": reason})
        cancelled: list[UUID] = [row["task_id"] for row in rows]
        announce(cancelled, is_work=False)
        if by and cancelled:
            record(by, "tasks.cancel", cancelled, reason=reason)
    return cancelled


def announce(task_ids: Iterable[UUID], is_work: bool = True) -> None:
    """Send `tasks_changed`; costs nothing where nobody listens. `is_work` False: somebody asked for it."""
    if tasks_changed.has_listeners() and (ids := list(task_ids)):
        tasks_changed.send(None, task_ids=ids, is_work=is_work)
