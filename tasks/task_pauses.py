"""A pause of single tasks. A waiting one is set aside; a running one stands still when its handler comes to a place for
it (`context.wait_while_paused`), and keeps its lease, its slot and its resources.

The time for which it stands still is added to its time limit.
"""

import time
from collections.abc import Callable, Iterable
from datetime import datetime
from uuid import UUID

from django.db import transaction

from operators.audit import Actor, record
from pg.queries import Queries
from tasks import tickets
from tasks.claim import announce
from tasks.leaves import leaf_of
from tasks.pauses import check_until
from tasks.turn import Claimed

QUERIES = Queries("tasks")
LOOK_SECONDS = 0.5


def pause_tasks(
    task_ids: Iterable[UUID], reason: str = "", by: Actor | None = None, until: datetime | None = None
) -> list[UUID]:
    """Pause open tasks, until then or until they are resumed (None); return those that were not paused already.

    Raises Refused for a moment that has passed. `by`: who is recorded in the audit; None: nobody.
    """
    check_until(until)
    parameters = {
        "task_ids": sorted(set(task_ids)),
        "reason": reason,
        "paused_by": by.name if by else "",
        "paused_until": until,
    }
    with transaction.atomic():
        QUERIES.run("lock_tasks", {"task_ids": parameters["task_ids"]})
        paused: list[UUID] = [row["task_id"] for row in QUERIES.run("pause_tasks", parameters)]
        announce(paused, is_work=False)
        if by and paused:
            details = {"until": until.isoformat()} if until else {}
            record(by, "tasks.pause_tasks", paused, reason=reason, details=details)
    return paused


def resume_tasks(task_ids: Iterable[UUID], reason: str = "", by: Actor | None = None) -> list[UUID]:
    """End pauses of tasks; return those that were paused. A handler that stands still goes on within LOOK_SECONDS."""
    wanted = {"task_ids": sorted(set(task_ids))}
    with transaction.atomic():
        QUERIES.run("lock_tasks", wanted)
        rows = QUERIES.run("resume_tasks", wanted)
        resumed: list[UUID] = [row["task_id"] for row in rows]
        tickets.send_on_commit(row["task_type"] for row in rows if row["task_type"])
        announce(resumed, is_work=False)
        if by and resumed:
            record(by, "tasks.resume_tasks", resumed, reason=reason)
    return resumed


def end_task_pauses() -> int:
    """Resume tasks whose pause is over, and forget pauses that mean nothing any more; return how many.

    Safe twice or beside itself: both act on rows that are still as they were found.
    """
    due = [row["task_id"] for row in QUERIES.run("due_task_pauses")]
    ended = resume_tasks(due) if due else []
    return len(ended) + len(QUERIES.run("forget_task_pauses"))


# -- in the process that runs the task ------------------------------------------------------------------------
def is_paused(claimed: Claimed) -> tuple[bool, bool]:
    """Return whether the task is still leased to this attempt, and whether it shall stand still. One query."""
    row = QUERIES.run("look_at_pause", claimed.fence, leaf=leaf_of(claimed.task_type))[0]
    return bool(row["is_mine"]), bool(row["is_paused"])


def keep_standing(held: Iterable[Claimed], standing: set[UUID]) -> set[UUID]:
    """Note with which of these tasks (`standing`) an agent that runs them itself stands still; return those that are
    paused. One query where none is."""
    items = {item.task_id: item for item in held}
    rows = QUERIES.run("task_pauses_of", {"task_ids": list(items)}) if items else []
    for row in rows:
        item = items[row["task_id"]]
        if row["is_paused"] and row["stands_since"] is None and item.task_id in standing:
            note_standing(item)
        elif row["stands_since"] is not None and item.task_id not in standing:
            note_going_on(item)
    return {row["task_id"] for row in rows if row["is_paused"]}


def stand_still(claimed: Claimed, is_over: Callable[[], bool] = lambda: False) -> bool:
    """Return at once where the task is not paused; else when it is resumed, or `is_over`, or it is not ours any more.

    Returns whether it is still ours.
    """
    is_mine, shall_stand = is_paused(claimed)
    if not (is_mine and shall_stand):
        return is_mine
    note_standing(claimed)
    try:
        while is_mine and shall_stand and not is_over():
            time.sleep(LOOK_SECONDS)
            is_mine, shall_stand = is_paused(claimed)
    finally:
        note_going_on(claimed)
    return is_mine


def note_standing(claimed: Claimed) -> bool:
    """Say that the handler stands still: from now on its lease is renewed without regard to its time limit."""
    rows = QUERIES.run("stand_still", claimed.fence, leaf=leaf_of(claimed.task_type))
    announce(row["task_id"] for row in rows)
    return bool(rows)


def note_going_on(claimed: Claimed) -> bool:
    """Say that it goes on: what it stood still is added to its time limit."""
    rows = QUERIES.run("go_on", claimed.fence, leaf=leaf_of(claimed.task_type))
    announce(row["task_id"] for row in rows)
    return bool(rows)
