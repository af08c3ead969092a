"""Celery entry points of the tasks room."""

import logging
import time
from typing import Any

from celery import shared_task
from django.db import DatabaseError, InterfaceError, OperationalError, connection

from pg.errors import Refused
from pg.queries import Queries
from tasks import queues, recurring, tickets
from tasks.claim import Claimed, Failure, claim, fail, finish, finish_and_claim_next, has_ready, lease_seconds
from tasks.registry import UnknownTaskType, all_handlers, get_handler
from tasks.retention import prune
from tasks.run import Outcome, run_handler
from tasks.sweep import sweep
from tasks.worker import Worker, current_worker

log = logging.getLogger(__name__)
QUERIES = Queries("tasks")
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
    """Claim and run one task after the other; return how many, and whether none is left."""
    deadline = time.monotonic() + SLICE_SECONDS
    claimed = claim(task_type, worker.agent_id)
    if claimed and may_recruit and has_ready(task_type):
        tickets.send_now([task_type])  # this one is busy now: another worker takes the next
    number = 0
    while claimed:
        number += 1
        outcome = run_claimed(claimed[0], worker)
        is_over = time.monotonic() >= deadline
        claimed = settle(claimed[0], outcome, claim_next=not is_over)
        if is_over:
            return number, False
    return number, True


def run_claimed(claimed: Claimed, worker: Worker) -> Outcome:
    running = worker.begin(claimed)
    try:
        return run_handler(claimed, running.context)
    finally:
        worker.end()


def settle(claimed: Claimed, outcome: Outcome, claim_next: bool) -> list[Claimed]:
    """Store the outcome; return the next claim, [] when none is left or wanted.

    An outage of the database is waited out for as long as the lease may hold: storing twice is harmless, since the
    second time finds the task settled. A result that PostgreSQL refuses is a permanent failure.
    """
    deadline = time.monotonic() + lease_seconds()
    while True:
        try:
            return settle_once(claimed, outcome, claim_next)
        except (DatabaseError, InterfaceError) as error:
            if is_refusal(error) and outcome.failure is None:
                text = f"the result cannot be stored: {error}".splitlines()[0]
                outcome = Outcome(None, Failure(text, is_permanent=True), outcome.usage, outcome.logs)
            else:
                wait_out(error, claimed, deadline)


def is_refusal(error: Exception) -> bool:
    """Tell whether PostgreSQL understood the statement and did not like the value (classes 22 and 54)."""
    return (getattr(error.__cause__, "sqlstate", None) or "")[:2] in ("22", "54")


def wait_out(error: Exception, claimed: Claimed, deadline: float) -> None:
    """Wait a little for a database that is away; raise the error where that is not the matter, or took too long."""
    is_outage = isinstance(error, OperationalError | InterfaceError)
    if not is_outage or connection.in_atomic_block or time.monotonic() > deadline:
        raise error
    log.warning("outcome of task %s is not stored yet: %s", claimed.task_id, error)
    connection.close()
    time.sleep(RECONNECT_SECONDS)


def settle_once(claimed: Claimed, outcome: Outcome, claim_next: bool) -> list[Claimed]:
    if outcome.failure:
        status = fail(claimed, outcome.failure, outcome.usage, outcome.logs)
        tell(claimed, "failed: %s; now %s", outcome.failure.message, status)
        return claim(claimed.task_type, claimed.worker) if claim_next else []
    following: list[Claimed] = []
    if claim_next:
        is_stored, following = finish_and_claim_next(
            claimed, outcome.result, outcome.usage, logs=outcome.logs
        )
    else:
        is_stored = finish(claimed, outcome.result, outcome.usage, outcome.logs)
    if not is_stored:
        tell(claimed, "finished too late: it was cancelled or taken over, nothing is changed")
    return following


def tell(claimed: Claimed, text: str, *values: Any) -> None:
    log.warning(
        f"task %s (%s, attempt %s) {text}", claimed.task_id, claimed.task_type, claimed.attempt, *values
    )
