"""A ticket tells the Celery workers that a task type has work. It never names a task.

So a lost ticket only costs time (beat's sweep sends one each second for every type with ready tasks), and a doubled
one nothing. A thread of its own sends them: whoever enqueues never waits for the broker, nor fails with it. At most
one ticket per type leaves the process every SPACING_SECONDS (where more than BUSY_ASKS come meanwhile, and workers go
from task to task anyway, every BUSY_SPACING_SECONDS), and none while MAX_WAITING of them wait with the broker, which
never holds the backlog. Where whoever made tasks ready goes on with their type himself, others may be called a
little later (HELP_SECONDS), once for what came up meanwhile.

The same thread tells those who listen to `work_came`, agents outside Celery for instance. Where tickets went out it
does so SPACING_SECONDS later: what that wakes would take the core from the worker that begins the task.
"""

import atexit
import json
import logging
import math
import os
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from typing import Any
from uuid import uuid4

from celery import current_app
from django.db import transaction

from tasks import known, queues
from tasks.signals import work_came

log = logging.getLogger(__name__)

JOB = "tasks.run_ticket"
SENT_AT = "sent_at"  # a header, in seconds since 1970: workers of older releases do not mind it
SPACING_SECONDS = 0.005
BUSY_ASKS = 4
BUSY_SPACING_SECONDS = 0.02
HELP_SECONDS = 0.1
EXPIRE_SECONDS = (
    60  # a ticket that nobody took is worthless by then; more than clocks of two machines may differ
)
MAX_WAITING = 200  # tickets in one of Celery's queues
LOOK_SECONDS = 0.5  # how often their number is looked at
EXIT_WAIT_SECONDS = 1.0
TRY_AGAIN = {"max_retries": 1, "interval_start": 0, "interval_max": 0}  # once more, on a fresh connection
RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)  # the pause after each failure in a row; the last one goes on


def send_on_commit(task_types: Iterable[str], within_seconds: float = 0) -> None:
    """Send a ticket for each type once the current transaction is committed, at the latest so long after, and
    `work_came`; nothing if it is rolled back."""
    wanted = sorted(set(task_types))
    if wanted:
        transaction.on_commit(lambda: _ask(wanted, within_seconds), robust=True)


def tell_on_commit() -> None:
    """Send `work_came` alone: workers need no ticket, but a limit may let somebody start a task."""
    transaction.on_commit(lambda: _sender.ask((), has_work=True), robust=True)


def _ask(task_types: list[str], within_seconds: float) -> None:
    known.learn(task_types)
    wanted = [name for name in task_types if not known.is_for_agents(name)]
    _sender.ask(wanted, has_work=True, within_seconds=within_seconds)


def send_now(task_types: Iterable[str], *, may_recruit: bool = True) -> None:
    """Hand tickets to the sending thread. `may_recruit` False: whoever takes it calls no further worker."""
    _sender.ask(task_types, may_recruit=may_recruit)


def flush(timeout_seconds: float = EXIT_WAIT_SECONDS) -> bool:
    """Wait until everything asked for is with the broker, and told; return False when that took too long."""
    return _sender.flush(timeout_seconds)


class Sender:
    """The thread, what it has still to send, and how often in a row the broker refused."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.wanted: set[tuple[str, bool]] = set()
        self.has_work = False  # work_came is to be sent
        self.until = math.inf  # when what was asked for leaves, at the latest (time.monotonic)
        self.is_sending = False
        self.asks = 0  # that have no time, since others were taken up; and how many those were
        self.asks_before = 0
        self.failures = 0
        self.waiting: dict[str, int] = {}  # by Celery queue, as of the last look
        self.next_look = 0.0
        self.thread: threading.Thread | None = None

    def ask(
        self,
        task_types: Iterable[str],
        *,
        may_recruit: bool = True,
        has_work: bool = False,
        within_seconds: float = 0,
    ) -> None:
        until = time.monotonic() + within_seconds
        with self.changed:
            if not self.has_asked() or until < self.until:
                self.until = until
                self.changed.notify_all()
            self.wanted |= {(task_type, may_recruit) for task_type in task_types}
            self.has_work |= has_work
            self.asks += within_seconds == 0
            if self.thread is None:
                self.thread = threading.Thread(target=self.run, name="tickets", daemon=True)
                self.thread.start()

    def has_asked(self) -> bool:
        return bool(self.wanted or self.has_work)

    def flush(self, timeout_seconds: float) -> bool:
        with self.changed:
            self.until = 0
            self.changed.notify_all()
            return self.changed.wait_for(lambda: not (self.has_asked() or self.is_sending), timeout_seconds)

    def run(self) -> None:
        while True:
            batch = self.take()
            failed = self.send_all(batch)
            pause = self.pause_seconds(bool(failed))
            if batch:
                time.sleep(self.spacing_seconds())
            self.tell()
            with self.changed:
                self.wanted |= failed
                self.until = 0 if failed else self.until
                self.is_sending = False
                self.changed.notify_all()
            if failed or not batch:
                time.sleep(pause)

    def tell(self) -> None:
        with self.changed:
            has_work, self.has_work = self.has_work, False
        if has_work:
            work_came.send_robust(None)

    def take(self) -> set[tuple[str, bool]]:
        with self.changed:
            while (left := self.seconds_left()) is None or left > 0:
                self.changed.wait(left)
            batch, self.wanted, self.is_sending, self.until = self.wanted, set(), True, math.inf
            self.asks_before, self.asks = self.asks, 0
            return batch

    def spacing_seconds(self) -> float:
        return BUSY_SPACING_SECONDS if self.asks_before > BUSY_ASKS else SPACING_SECONDS

    def seconds_left(self) -> float | None:
        """Return how long what was asked for has time; None: nothing was."""
        return self.until - time.monotonic() if self.has_asked() else None

    def pause_seconds(self, has_failed: bool) -> float:
        """Return how long to leave the broker alone; what is asked for meanwhile goes out together."""
        if not has_failed:
            self.failures = 0
            return SPACING_SECONDS
        self.failures += 1
        return RETRY_SECONDS[min(self.failures, len(RETRY_SECONDS)) - 1]

    def send_all(self, batch: set[tuple[str, bool]]) -> set[tuple[str, bool]]:
        """Send the tickets; return those that are left after the first failure. Where too many wait, none is sent."""
        left = set(batch)
        for ticket in sorted(batch):
            queue = queues.celery_queue(queues.queue_of(ticket[0]))
            try:
                if self.waiting.get(queue, 0) < MAX_WAITING:
                    send(*ticket)
                self.look(queue)
            except Exception as error:  # whatever a broker's client raises: the sweep makes up for it
                log.warning("ticket for %s not sent, trying again: %r", ticket[0], error)
                return left
            left.discard(ticket)
        return left

    def look(self, queue: str) -> None:
        """After a ticket, so that none waits for it: how many are there by now?"""
        if self.next_look <= (now := time.monotonic()):
            self.waiting[queue] = count_waiting(queue)
            self.next_look = now + LOOK_SECONDS / max(1, len(self.waiting))


def send(task_type: str, may_recruit: bool = True) -> None:
    """Publish one ticket; raises what the broker's client raises, within the socket timeouts of the settings.

    What `Celery.send_task` does, without its routes, options and signals: the task waits for it (decision 0025).
    """
    amqp, queue = current_app.amqp, queues.celery_queue(queues.queue_of(task_type))
    body, headers = letter(task_type, may_recruit)
    ticket_id, now = str(uuid4()), time.time()
    expires = datetime.fromtimestamp(now + EXPIRE_SECONDS, UTC).isoformat()
    with amqp.producer_pool.acquire(block=True) as producer:
        producer.publish(
            body,
            content_type="application/json",
            content_encoding="utf-8",
            headers={**headers, "id": ticket_id, "root_id": ticket_id, "expires": expires, SENT_AT: now},
            correlation_id=ticket_id,
            expiration=EXPIRE_SECONDS,
            exchange="",
            routing_key=queue,
            declare=[amqp.queues[queue]],
            retry=True,
            retry_policy=TRY_AGAIN,
        )


@cache
def letter(task_type: str, may_recruit: bool) -> tuple[str, dict[str, Any]]:
    """Return the body and the headers that all tickets of a type share."""
    arguments = (task_type, may_recruit)
    made = current_app.amqp.as_task_v2("", JOB, arguments, argsrepr=repr(arguments), kwargsrepr="{}")
    return json.dumps(made.body), made.headers


def count_waiting(queue: str) -> int:
    """Return how many messages wait in one of Celery's queues; raises what the broker's client raises."""
    with current_app.pool.acquire(block=True) as broker:
        try:
            return int(broker.default_channel.queue_declare(queue=queue, passive=True).message_count)
        except broker.channel_errors:  # Redis and Valkey have no empty queues
            return 0


def waited_seconds(request: Any) -> float:
    """Return for how long the ticket of a Celery request has waited, by the clocks of both machines; 0: not known."""
    sent_at = (getattr(request, "headers", None) or {}).get(SENT_AT)
    return max(0.0, time.time() - float(sent_at)) if sent_at else 0.0


_sender = Sender()


def _reset_after_fork() -> None:
    """A forked child has no thread, and must not send what its parent will."""
    global _sender
    _sender = Sender()


os.register_at_fork(after_in_child=_reset_after_fork)
atexit.register(lambda: _sender.thread and flush())
