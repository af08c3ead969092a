"""The demo's own process: starts the plan once, keeps its agents alive, says how far they are."""

import logging
import threading
import time
from collections.abc import Callable
from uuid import UUID

from django.db import InterfaceError, OperationalError, connection, transaction

from agents.liveness import record_heartbeats
from agents.state import read_state, write_state
from demo.fleet import Fleet, gather_fleet, show_busy
from demo.journal import lock, note_progress
from demo.status import Progress, list_failures, read_progress
from demo.talk import read_mail
from tasks.enqueue import enqueue

log = logging.getLogger(__name__)
TICK_SECONDS = 2.0
HEARTBEAT_SECONDS = 10.0


def start_plan(fleet: Fleet, again: bool = False, modules: list[str] | None = None) -> UUID | None:
    """Enqueue the plan unless it was before; return its id, or None where there is nothing to do.

    `again` enqueues another one as soon as the former is finished; `modules` None: the whole standard library. The note
    in the planner's state is written in the same transaction, so a second start, even at once, finds it.
    """
    with transaction.atomic():
        lock(fleet.planner)
        if "plan" in read_state(fleet.planner) and not again:
            return None
        payload = {"modules": modules} if modules else {}
        task_id = enqueue(
            "demo.plan", payload, name="plan", unique_key="demo.plan", created_by_agent=fleet.planner
        )
        write_state(fleet.planner, {"plan": str(task_id)})
        return task_id


def run_demo(stopping: threading.Event, again: bool = False, tick_seconds: float = TICK_SECONDS) -> None:
    """Run until `stopping` is set. An outage of PostgreSQL is waited out, tick by tick."""
    watch = Watch(again)
    while not stopping.is_set():
        attempt(watch.tick)
        stopping.wait(tick_seconds)
    attempt(watch.leave)


def attempt(action: Callable[[], None]) -> None:
    try:
        action()
    except (OperationalError, InterfaceError) as error:
        log.warning("PostgreSQL is away: %s", str(error).strip().splitlines()[0])
        connection.close()


class Watch:
    """What one tick knows of the ones before."""

    def __init__(self, again: bool) -> None:
        self.again = again
        self.fleet: Fleet | None = None
        self.shown: Progress | None = None
        self.next_heartbeat = 0.0

    def tick(self) -> None:
        fleet = self.fleet or self.begin()
        if time.monotonic() >= self.next_heartbeat:
            record_heartbeats(fleet)
            self.next_heartbeat = time.monotonic() + HEARTBEAT_SECONDS
        for message in read_mail(fleet.planner):
            log.info("planner hears: %s %s", message.subject, message.payload)
        progress = read_progress()
        if progress != self.shown:
            self.show(fleet, progress)

    def begin(self) -> Fleet:
        fleet = gather_fleet()
        started = start_plan(fleet, self.again)
        log.info(
            "plan %s", f"enqueued: task {started}" if started else "was enqueued before (--again for another)"
        )
        self.fleet = fleet
        return fleet

    def show(self, fleet: Fleet, progress: Progress) -> None:
        log.info("%s", progress)
        note_progress(fleet.planner, progress.as_counts())
        show_busy(fleet, not progress.is_done)
        if progress.is_done:
            for line in list_failures():
                log.info("%s", line)
            log.info('done; try: manage.py knowledge search "command line options"')
        self.shown = progress

    def leave(self) -> None:
        if self.fleet:
            show_busy(self.fleet, False)
