"""A Celery process as an agent: registered at its first ticket, alive by heartbeat, terminated when it stops.

A thread with a database connection of its own beats for it and renews the leases of what it runs; the same thread ends
the process where a handler ignores its time-out or its cancellation. Celery then replaces that process alone.
"""

import gc
import logging
import os
import signal
import socket
import threading
import time
from typing import Any
from uuid import UUID

from celery import signals
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connections

from agents.liveness import record_heartbeats
from agents.models import AgentStatus
from agents.registry import register_agent, terminate_agent
from pg.background import background
from pg.pool import close_pools
from tasks import queues
from tasks.claim import Failure, fail, finish_many, give_back, heartbeat_leases, lease_seconds
from tasks.hand import Hand, Pace, Running
from tasks.leaves import register_types

log = logging.getLogger(__name__)
AGENT_TYPE = "celery-worker"
TICK_SECONDS = 0.5


class Worker:
    """This process. `is_replaceable`: it is a prefork child, which its parent starts anew when it ends."""

    def __init__(self, is_replaceable: bool = False) -> None:
        self.is_replaceable = is_replaceable
        self.hand = Hand()
        self.paces: dict[str, Pace] = {}
        self.stopping = threading.Event()
        self.thread: threading.Thread | None = None
        self.beats = 0
        self.is_retired = False  # its agent was terminated: it only brings to an end what it runs
        self.agent_id = self.register()

    def register(self) -> UUID:
        name = f"{socket.gethostname()}:{os.getpid()}"
        agent = register_agent(AGENT_TYPE, name, metadata={"pid": os.getpid()}, status=AgentStatus.ACTIVE)
        record_heartbeats([agent.agent_id])
        return agent.agent_id

    def start(self) -> "Worker":
        self.thread = threading.Thread(target=self.beat_until_stopped, name="task-heartbeat", daemon=True)
        self.thread.start()
        return self

    def pace_of(self, task_type: str) -> Pace:
        if task_type not in self.paces:
            self.paces[task_type] = Pace(getattr(settings, "TASKS_MAX_CLAIM", 50))
        return self.paces[task_type]

    def stop(self, reason: str) -> None:
        """End the thread and the agent. Safe to repeat."""
        self.stopping.set()
        if self.thread is not None:
            self.thread.join(timeout=5)
        terminate_agent(self.agent_id, reason=reason)

    # -- the heartbeat thread -------------------------------------------------------------------------------
    def beat_until_stopped(self) -> None:
        next_beat = time.monotonic() + lease_seconds() / 4
        try:
            while not self.stopping.wait(TICK_SECONDS):
                if self.hand.is_held_up():
                    self.leave_alone()
                self.enforce_limits()
                if time.monotonic() >= next_beat:
                    next_beat = time.monotonic() + lease_seconds() / 4
                    self.beat_or_log()
        finally:
            connections.close_all()  # this thread's own

    def beat_or_log(self) -> None:
        """Beat; an outage of the database is waited out, the lease decides whether it was too long."""
        try:
            for connection in connections.all(initialized_only=True):
                connection.close_if_unusable_or_obsolete()
            self.beat()
        except (DatabaseError, InterfaceError) as error:
            log.warning("heartbeat of worker %s: %s", self.agent_id, error)

    def beat(self) -> None:
        """Record the heartbeat, renew the leases, notice tasks that were cancelled or taken over."""
        held = self.hand.held()
        lost = {item.task_id for item in held} - heartbeat_leases(self.agent_id, held)
        self.hand.lose(lost)
        if not record_heartbeats([self.agent_id]):
            log.warning("worker %s was terminated by somebody: its next ticket registers anew", self.agent_id)
            self.is_retired = True
        self.beats += 1

    def leave_alone(self) -> None:
        """Give back what waits, and store what is done: neither must wait for what runs. An outage leaves the former to
        the leases, the latter in the hand."""
        done, waiting = self.hand.take_done(), self.hand.take_waiting()
        try:
            finish_many(done)
            done = []
            give_back(waiting)
        except (DatabaseError, InterfaceError) as error:
            log.warning("worker %s: what waits behind a long task: %s", self.agent_id, error)
        finally:
            self.hand.bring_back(done)

    def enforce_limits(self) -> None:
        """Kill this process where its task is over its hard limit."""
        running = self.hand.running
        if running is None or time.monotonic() < running.hard_limit:
            return
        if not self.is_replaceable:
            log.error("task %s ignores its time-out or cancellation", running.claimed.task_id)
            running.hard_limit = float("inf")
            return
        self.give_up(running)

    def give_up(self, running: Running) -> None:
        """Record the time-out, then end the process: a handler that does not listen cannot be stopped otherwise."""
        try:
            self.leave_alone()
            if not running.is_lost:
                seconds = running.claimed.timeout_seconds
                message = f"timed out after {seconds:g} s and ignored it: its process was killed"
                fail(running.claimed, Failure(message, {"type": "tasks.policy.TaskTimedOut"}))
            log.error("killed to stop task %s", running.claimed.task_id)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)


# -- this process's worker ----------------------------------------------------------------------------------
_worker: Worker | None = None
_is_replaceable = False


def current_worker() -> Worker:
    """Return this process's worker, registered as an agent at the first call after a fork."""
    global _worker
    if _worker is not None and _worker.is_retired:
        _worker.stop("terminated by somebody")
        _worker = None
    if _worker is None:
        _worker = Worker(_is_replaceable).start()
    return _worker


def stop_worker(reason: str) -> None:
    """Terminate this process's agent, if it has one; an outage is logged: the sweep terminates silent workers."""
    global _worker
    worker, _worker = _worker, None
    if worker is None:
        return
    try:
        worker.stop(reason)
    except (DatabaseError, InterfaceError) as error:
        log.warning("worker %s could not be terminated: %s", worker.agent_id, error)
    finally:
        connections.close_all()


@signals.celeryd_after_setup.connect(weak=False)
def choose_queues(instance: Any, **_: Any) -> None:
    from tasks.prefetched import keep_tickets_in_memory  # loads the broker's client: not in other processes

    queues.consume(instance.app)
    keep_tickets_in_memory()


@signals.worker_init.connect(weak=False)
def prepare_parent(**_: Any) -> None:
    """Make the leaves before the first ticket. Without a database the sweep does it later."""
    try:
        with background():  # its role may make tables
            register_types()
    except (DatabaseError, InterfaceError) as error:
        log.warning("task types are not registered yet: %s", error)
    finally:
        connections.close_all()  # no connection crosses the fork
        close_pools()
        gc.freeze()  # what is imported by now stays: else each full collection walks through it, and copies its pages


@signals.worker_process_init.connect(weak=False)
def prepare_child(**_: Any) -> None:
    global _worker, _is_replaceable
    _worker, _is_replaceable = None, True


@signals.worker_process_shutdown.connect(weak=False)
def stop_child(**_: Any) -> None:
    stop_worker("its process stops")


@signals.worker_shutdown.connect(weak=False)
def stop_parent(**_: Any) -> None:
    stop_worker("its process stops")
