"""Celery entry points of the tasks room."""

import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar
from uuid import UUID

from celery import shared_task
from django.db import DatabaseError, InterfaceError, OperationalError, connection

from pg.errors import Refused
from pg.queries import Queries
from tasks import queues, recurring, tickets
from tasks.claim import (
    Claimed,
    Ended,
    Failure,
    claim,
    fail,
    finish_and_claim,
    finish_many,
    give_back,
    has_ready,
    lease_seconds,
)
from tasks.company import find_suspect
from tasks.hand import Hand, Running
from tasks.registry import UnknownTaskType, all_handlers, get_handler
from tasks.retention import prune
from tasks.run import open_transactions, run_handler
from tasks.sweep import sweep
from tasks.usage import Usage
from tasks.worker import Worker, current_worker

log = logging.getLogger(__name__)
QUERIES = Queries("tasks")
T = TypeVar("T")
SLICE_SECONDS = 1.0
BUSY_SECONDS = 0.2  # a ticket that waited for longer found all workers at work
RECONNECT_SECONDS = 0.25


@shared_task(name=tickets.JOB, bind=True)
def run_ticket(self: Any, task_type: str, may_recruit: bool = True) -> int:
    """Run ready tasks of the type until none is left or SLICE_SECONDS are over; return how many.

    Safe twice, late or beside itself: what it does is what it can claim. A ticket whose time is over sends its
    successor, so that other types get their turn. One that waited for long, workers being few, is spent on the type
    whose turn it is: not the one with the most tickets wins, but the weights decide.
    """
    try:
        get_handler(task_type)
    except UnknownTaskType as error:
        log.warning("ticket for %s dropped: %s", task_type, error)
        return 0
    if tickets.waited_seconds(self.request) > BUSY_SECONDS:
        may_recruit = False
        task_type = next_type(queues.queue_of(task_type)) or task_type
    number, is_drained = drain(task_type, current_worker(), may_recruit)
    if not is_drained:
        tickets.send_now([task_type], may_recruit=False)
    return number


def next_type(queue: str) -> str | None:
    """Return a ready type of the queue that this process can do, drawn by weight; None: nothing is ready. One query."""
    known = [item.task_type for item in all_handlers()]
    found = QUERIES.run("next_type", {"task_types": known, "queue": queue})
    return found[0]["task_type"] if found else None


@shared_task(name="tasks.prune")
def prune_job() -> dict[str, int]:
    """Remove finished tasks whose time is over. Safe twice, late or beside itself: see tasks.retention."""
    return prune()


@shared_task(name=recurring.JOB, bind=True)
def enqueue_recurring(self: Any, name: str = "", **_: Any) -> list[str]:
    """What beat asks for at each moment of a recurring task. Safe twice, late, from two beats.

    `name`: the schedule's, where it does not come in beat's header.
    """
    name = name or getattr(self.request, "periodic_task_name", None) or ""
    try:
        return [str(task_id) for task_id in recurring.enqueue_due(name)]
    except Refused as error:
        log.error("nothing is enqueued for %s: %s %s", name, error, error.hint)
        return []


@shared_task(name="tasks.sweep")
def sweep_job() -> dict[str, int]:
    """What beat asks for each second. Safe twice, late or beside itself: see tasks.sweep."""
    return sweep()


def drain(task_type: str, worker: Worker, may_recruit: bool) -> tuple[int, bool]:
    """Claim and run until nothing is left or SLICE_SECONDS are over; return how many, and whether none is left.

    One task per claim at first; several of a type that proves to be short (tasks.hand.Pace). Where more is ready,
    another worker is called: before the first task, or after it where such tasks are over at once.
    """
    deadline = time.monotonic() + SLICE_SECONDS
    pace = worker.pace_of(task_type)
    number = 0
    try:
        take(worker, task_type, claim(task_type, worker.agent_id))
        if worker.hand.waiting and may_recruit and not pace.is_short:
            may_recruit = recruit(task_type)
        began = time.monotonic()
        while at_once := run_waiting(worker.hand):
            number += at_once
            is_over = time.monotonic() >= deadline
            following = settle(task_type, worker.agent_id, worker.hand, 0 if is_over else pace.size)
            take(worker, task_type, following)
            pace.note(at_once, (now := time.monotonic()) - began)
            began = now
            if is_over:
                return number, False
            if following and may_recruit:
                may_recruit = recruit(task_type)
        return number, True
    finally:  # where something was raised: what was not begun goes back, what cannot be stored is left to its lease
        worker.leave_alone()
        worker.hand.take_done()


def recruit(task_type: str) -> bool:
    """Call another worker if more is ready; return False: once per ticket, the next one calls the next. One query."""
    if has_ready(task_type):
        tickets.send_now([task_type])
    return False


def take(worker: Worker, task_type: str, claimed: Sequence[Claimed]) -> None:
    """Take into the hand what was claimed. Where one of it must run alone (tasks.company), those before it come first,
    and it has its turn with the next claim: what is not taken goes back."""
    suspect = find_suspect(claimed)
    worker.pace_of(task_type).is_careful = suspect is not None
    number = len(claimed) if suspect is None else max(1, claimed.index(suspect))
    worker.hand.take(claimed[:number])
    if back := claimed[number:]:
        outlast(lambda: give_back(back))


def run_waiting(hand: Hand) -> int:
    """Run what waits, one after the other; return how many. What others took over meanwhile is not run."""
    number, ours = 0, open_transactions()
    while running := hand.begin_next():
        number += 1
        run_and_keep(running, hand, ours)
    return number


def run_and_keep(running: Running, hand: Hand, ours: Collection[str]) -> None:
    """Run a task's handler; what ended well waits to be stored, a failure is stored at once."""
    claimed, ended = running.claimed, None
    try:
        outcome = run_handler(claimed, running.context, ours)
        if outcome.failure is None:
            ended = Ended(claimed, outcome.result, outcome.usage, outcome.logs)
    finally:
        hand.end(ended)
    if outcome.failure:
        settle_failed(claimed, outcome.failure, outcome.usage, outcome.logs)


def settle(task_type: str, worker_id: UUID, hand: Hand, limit: int) -> list[Claimed]:
    """Store what is done, and claim up to `limit` others, in one transaction; return those.

    Storing twice is harmless: the second time finds the tasks settled. Of several results of which PostgreSQL refuses
    one, each is stored by itself; a result that it refuses is a permanent failure.
    """
    done = hand.take_done()
    try:
        stored, following = outlast(lambda: finish_and_claim(task_type, worker_id, done, limit, 1))
    except DatabaseError as error:
        if not is_refusal(error):
            raise
        for item in done:
            settle_one(item)
        return outlast(lambda: claim(task_type, worker_id, limit, 1)) if limit else []
    tell_late(done, stored)
    return following


def settle_one(item: Ended) -> None:
    try:
        tell_late([item], outlast(lambda: finish_many([item])))
    except DatabaseError as error:
        if not is_refusal(error):
            raise
        text = f"the result cannot be stored: {error}".splitlines()[0]
        settle_failed(item.claimed, Failure(text, is_permanent=True), item.usage, item.logs)


def settle_failed(claimed: Claimed, failure: Failure, usage: Usage, logs: str | None) -> None:
    status = outlast(lambda: fail(claimed, failure, usage, logs))
    tell(claimed, "failed: %s; now %s", failure.message, status)


def outlast(step: Callable[[], T]) -> T:
    """Return what `step` does, once the database is there: an outage is waited out for as long as leases may hold."""
    deadline = time.monotonic() + lease_seconds()
    while True:
        try:
            return step()
        except (OperationalError, InterfaceError) as error:
            if connection.in_atomic_block or time.monotonic() > deadline:
                raise
            log.warning("outcomes of tasks are not stored yet: %s", error)
            connection.close()
            time.sleep(RECONNECT_SECONDS)


def is_refusal(error: Exception) -> bool:
    """Tell whether PostgreSQL understood the statement and did not like the value (classes 22 and 54)."""
    return (getattr(error.__cause__, "sqlstate", None) or "")[:2] in ("22", "54")


def tell_late(done: Sequence[Ended], stored: set[UUID]) -> None:
    for item in done:
        if item.claimed.task_id not in stored:
            tell(item.claimed, "finished too late: it was cancelled or taken over, nothing is changed")


def tell(claimed: Claimed, text: str, *values: Any) -> None:
    log.warning(
        f"task %s (%s, attempt %s) {text}", claimed.task_id, claimed.task_type, claimed.attempt, *values
    )
