"""The relay's loop: who leads, when the next batch is due, and what an outage looks like from outside.

PostgreSQL and NATS may both go away at any moment: each outage is logged once, and nothing is lost meanwhile.
"""

import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper
from nats.aio.msg import Msg

from bridge import setup
from bridge.delivery import WAKE_SUBJECT, WORK
from bridge.fence import try_lead
from bridge.hold import require_free
from bridge.lags import Lags
from bridge.listener import Listener
from bridge.outage import Outage
from bridge.part import SESSION_SETTINGS
from bridge.relay import BATCH_ROWS, Batch, Memory, relay_batch
from bridge.session import keep_statements, open_session
from bridge.sources import note_epochs
from pg.errors import MisterSmithError

log = logging.getLogger(__name__)

STANDBY_SECONDS = 0.5
STOP_SECONDS = 0.2  # how soon an idle relay sees that it shall stop
RETRY_SECONDS = 0.5
# Of many tasks' steps at once, fewer are messages: those of workers wait, from the last batch on, until it is told that
# tasks have begun, by when that takes no core from one; at least and at most so long.
WORK_SECONDS = 0.03, 0.05
# A nats-server syncs each atomic batch some six times, however large, and workers' commits wait for the same disk:
# where so many messages were there, the next look comes after two polls.
BUSY_MESSAGES = 100
RELAY_SETTINGS = (
    "SET application_name = 'mistersmith relay'",
    "SET synchronous_commit = off",  # a delete that is lost is repeated, and seen by its Sync-Id
    *SESSION_SETTINGS,
)


@dataclass
class Relay:
    """Runs batches until `stop`. Any number may run at once: one leads."""

    poll_seconds: float = field(default_factory=lambda: settings.BRIDGE_POLL_MS / 1000)
    gap_seconds: float = field(default_factory=lambda: settings.BRIDGE_MIN_GAP_MS / 1000)
    batch_rows: int = BATCH_ROWS
    is_leading: bool = False

    def __post_init__(self) -> None:
        self.memory = Memory()
        self.name = "relay"
        self.outage = Outage("relay")
        self.lags = Lags()
        self.totals: Counter[str] = Counter()
        self._stopping = False
        self._woken = threading.Event()
        self._is_urgent = False
        self._listener = Listener(WAKE_SUBJECT, self._wake)
        self._is_prepared = False

    def stop(self) -> None:
        """End `run` after the batch in hand. Only sets a flag: a signal handler may call it."""
        self._stopping = True

    def run(self) -> None:
        """Lead, or wait to lead, until stopped."""
        while not self._stopping:
            try:
                with open_session(RELAY_SETTINGS) as db:
                    keep_statements(db)
                    self.lead(db)
            except (OperationalError, InterfaceError) as error:
                self.outage.note(f"PostgreSQL: {error}".strip())
                time.sleep(RETRY_SECONDS)
        self._listener.end()

    def lead(self, db: BaseDatabaseWrapper) -> None:
        """Wait for the lead, then relay until stopped. The lead ends with the session."""
        while not try_lead(db):
            time.sleep(STANDBY_SECONDS)
            if self._stopping:
                return
        log.info("this relay leads")
        self.memory.forget()  # another one may have published since
        self.is_leading = True
        try:
            while not self._stopping:
                self.turn(db)
        finally:
            self.is_leading = False

    def turn(self, db: BaseDatabaseWrapper) -> None:
        """Run one batch and wait until the next is due."""
        started = time.monotonic()
        self._is_urgent = False
        self._woken.clear()
        try:
            self.prepare(db)
            batch = relay_batch(db, self.memory, self.batch_rows)
        except MisterSmithError as error:
            self.memory.forget()
            self._is_prepared = False
            self.outage.note(str(error))
            time.sleep(RETRY_SECONDS)
            return
        self.report(batch)
        self.wait(batch, started)

    def prepare(self, db: BaseDatabaseWrapper) -> None:
        """At the start and after an outage: bring NATS to the declared topology and listen for wake-ups. Streams that
        are to be replaced are left to their flusher."""
        if self._is_prepared:
            return
        require_free(db)
        for step in setup.apply_plan(setup.make_plan(setup.read_found()), ("create", "update")):
            log.warning("topology: %s %s: %s", step.action, step.object, step.why)
        note_epochs(db, setup.read_found().created)
        self._listener.begin()
        self._is_prepared = True

    async def _wake(self, message: Msg) -> None:
        self._is_urgent |= message.data != WORK
        self._woken.set()

    def report(self, batch: Batch) -> None:
        if batch.trouble:
            self.outage.note(batch.trouble)
        elif not batch.is_fenced:
            self.outage.end()
        if batch.is_stream_missing:
            self._is_prepared = False
        self.lags.add(batch.waited_seconds)
        for name in ("published", "known", "replaced", "conflicts", "quarantined"):
            self.totals[name] += getattr(batch, name)
        if batch.quarantined or batch.conflicts:
            log.warning("relay: %d rows quarantined, %d conflicts", batch.quarantined, batch.conflicts)

    def figures(self) -> dict[str, Any]:
        return {"leads": self.is_leading, **self.totals, "lag_ms": self.lags.quantiles()}

    def wait(self, batch: Batch, started: float) -> None:
        """Go on at once (but keep the gap) while a batch does not hold all there is; else wait for a wake-up or the
        next poll. Work comes in streams: going on for each row of it would make many small batches of one, and where it
        comes fast a poll leaves one out."""
        if batch.read:
            time.sleep(max(0.0, self.gap_seconds - (time.monotonic() - started)))
        if has_more(batch, self.batch_rows):
            return
        due = started + self.poll_seconds * polls_after(batch)
        while not self._stopping and (left := due - time.monotonic()) > 0:
            if self._woken.wait(min(left, STOP_SECONDS)):
                self._woken.clear()
                due = started if self._is_urgent else min(due, due_for_work(started, time.monotonic()))


def polls_after(batch: Batch) -> int:
    """Return how many polls to wait for, unless woken: work that comes fast is fetched more at once."""
    return 2 if batch.read >= BUSY_MESSAGES else 1


def due_for_work(started: float, told: float) -> float:
    """Return when to look for workers' steps, told of them then; `started`: the last batch."""
    least, most = WORK_SECONDS
    return told if told - started >= least else started + most


def has_more(batch: Batch, limit: int) -> bool:
    """Tell whether rows are left that were there when the batch was read, and that it makes sense to try at once."""
    return not batch.is_stuck and (batch.read >= limit or batch.doubtful > 0)
