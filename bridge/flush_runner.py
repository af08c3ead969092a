"""The flusher's loop: one bucket's FLUSH stream into PostgreSQL.

Any number may run at once; each takes other messages. A flusher has two batches under way: while PostgreSQL works on
one, the next is fetched and read. They are written one after the other, each acknowledged after its own commit.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

import nats.errors
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from bridge import connection, setup, topology
from bridge.changes import Letter
from bridge.connection import Client
from bridge.fence import shared_fence
from bridge.flusher import Batch, Flushed, read_batch, write_batch
from bridge.puller import Pulled, acknowledge, put_back
from bridge.pulling import CALL_SECONDS, WAIT_SECONDS, Pulling
from bridge.session import keep_statements
from bridge.sources import note_epochs, note_flushed
from bridge.targets import TARGETS
from pg.errors import MisterSmithError, Unreachable

log = logging.getLogger(__name__)

ENOUGH, MOST = 50, 2_000  # rows of a batch when nothing is behind, and at most
LINGER_SECONDS = 0.1  # the longest that a first row waits for others
CONFLICT_SECONDS = 0.1  # how soon a change that waits for the relay is tried again
FENCED_SECONDS = 1.0
LOOK_SECONDS = 1.0


class Flusher(Pulling):
    """Flushes one bucket until stopped."""

    def __init__(self, bucket: str) -> None:
        super().__init__(f"flusher {bucket}")
        self.target = TARGETS[bucket]
        self.flush = topology.flushes()[bucket]
        self.totals = Flushed()
        self.unsettled = 0  # delivered, not acknowledged
        self._next_look = 0.0
        self._answering: Future[None] | None = None
        self._reader: ThreadPoolExecutor | None = None
        self._ahead: Future[Batch] | None = None  # what is being read, or was

    @contextmanager
    def open(self) -> Iterator[BaseDatabaseWrapper]:
        with super().open() as db:
            keep_statements(db)
            yield db

    def prepare(self, db: BaseDatabaseWrapper) -> None:
        """Bring NATS to the declared topology, and begin to pull. A stream of a former bucket is first flushed."""
        self.drop_ahead()
        found = setup.read_found()
        setup.apply_plan(setup.make_plan(found), ("create", "update"))
        self.replace_when_flushed()
        found = setup.read_found()
        note_epochs(db, found.created)
        epoch = topology.flush_epoch(found.configs[self.flush.stream]) or found.created[self.flush.source]
        self.begin(self.flush.stream, topology.FLUSHER, epoch)
        self._next_look = 0.0

    def replace_when_flushed(self) -> None:
        """Make the FLUSH stream anew where its bucket was, unless it still holds what is to be flushed."""
        steps = [step for step in setup.make_plan(setup.read_found()) if step.object == self.flush.stream]
        try:
            for step in setup.apply_plan(steps, ("create", "replace")):
                log.warning("topology: %s %s: %s", step.action, step.object, step.why)
        except setup.TopologyError as error:
            log.info("%s", error)

    def turn(self, db: BaseDatabaseWrapper) -> None:
        """Flush one batch. What is not acknowledged comes again."""
        batch = self.next_batch()
        if batch.letters:
            self.write(db, batch)
        self.outage.end()
        if time.monotonic() >= self._next_look:
            self.look(db)

    def take(self) -> Pulled:
        """Return a batch: all that is there when it is behind, else what comes within a moment."""
        return self.pull(MOST, max(ENOUGH, min(self.pending, MOST)), LINGER_SECONDS)

    def next_batch(self) -> Batch:
        """Return what was read while the batch before was written, or what comes now; have the next one read from now
        on. Raises Unreachable."""
        ahead, self._ahead = self._ahead or self.read_ahead(), None
        batch = ahead.result()
        self._ahead = self.read_ahead()
        return batch

    def read_ahead(self) -> "Future[Batch]":
        self._reader = self._reader or ThreadPoolExecutor(1, f"{self.name} reads")
        return self._reader.submit(copy_context().run, lambda: read_batch(self.target, self.take().letters))

    def drop_ahead(self) -> None:
        """Have what is being read delivered again at once, not after the consumer's ack_wait: nobody else may ask the
        puller meanwhile, and a restore may have taken back what it says."""
        ahead, self._ahead = self._ahead, None
        if ahead:
            wait([ahead])
            if not ahead.exception():
                self.answer([], ahead.result().letters, 0)

    def write(self, db: BaseDatabaseWrapper, batch: Batch) -> None:
        letters = batch.letters
        with shared_fence(db) as held:
            if held:
                done = write_batch(db, self.target, batch)
        if not held:
            self.drop_ahead()
            self.answer([], letters, FENCED_SECONDS)
            time.sleep(WAIT_SECONDS)
            return
        waiting = {id(letter) for letter in done.waiting}
        self.answer([letter for letter in letters if id(letter) not in waiting], done.waiting)
        self.report(done, letters)

    def answer(
        self, done: Sequence[Letter], waiting: Sequence[Letter], delay_seconds: float = CONFLICT_SECONDS
    ) -> None:
        """Tell the server what is in PostgreSQL, after the commit. The next batch does not wait for it."""

        async def tell(client: Client) -> None:
            await acknowledge(client.nc, done)
            await put_back(client.nc, waiting, delay_seconds)

        self.finish_answers()
        try:
            self._answering = connection.link().begin(tell, CALL_SECONDS)
        except Unreachable as error:
            log.info("not acknowledged: %s", error)

    def finish_answers(self) -> None:
        """Wait for the answers that are on their way. What is not answered comes again, and changes nothing then."""
        answering, self._answering = self._answering, None
        try:
            if answering:
                answering.result(CALL_SECONDS)
        except (OSError, nats.errors.Error, TimeoutError, CancelledError) as error:
            log.info("not acknowledged: %s", error or type(error).__name__)

    def end(self) -> None:
        self.drop_ahead()
        self.finish_answers()
        if self._reader:
            self._reader.shutdown()
            self._reader = None
        super().end()

    def report(self, done: Flushed, letters: Sequence[Letter]) -> None:
        now = timezone.now()
        self.lags.add(
            (now - letter.stored_at).total_seconds() for letter in letters if letter.deliveries == 1
        )
        for name in ("read", "applied", "replaced", "stale", "own", "fenced", "ended", "dead"):
            setattr(self.totals, name, getattr(self.totals, name) + getattr(done, name))
        if done.dead or done.fenced:
            log.warning(
                "%s: %d messages set apart, %d of older epochs refused", self.name, done.dead, done.fenced
            )

    def look(self, db: BaseDatabaseWrapper) -> None:
        """See how far the consumer is, and whether the bucket is still the one that was flushed."""
        self._next_look = time.monotonic() + LOOK_SECONDS
        created, info, epoch = connection.call(self._look, CALL_SECONDS)
        self.pending, self.unsettled = info.num_pending or 0, info.num_ack_pending or 0
        if created != epoch:
            note_epochs(db, {self.flush.source: created})
            if not self.pending and not self.unsettled:
                self.is_prepared = False
        elif info.ack_floor and info.ack_floor.stream_seq:
            note_flushed(db, self.target.bucket, epoch, info.ack_floor.stream_seq)

    async def _look(self, client: Client) -> tuple[int, Any, int]:
        bucket = await setup.read_info(client, self.flush.source)
        flush = await setup.read_info(client, self.flush.stream)
        consumer = await setup.read_consumer(client, setup.flusher_of(self.flush))
        if bucket is None or flush is None or consumer is None:
            raise Missing(f"{self.flush.stream} or its bucket is not there", "run manage.py bridge setup")
        return topology.epoch_of(bucket.created), consumer, topology.flush_epoch(flush.config)

    def figures(self) -> dict[str, Any]:
        return {
            **{
                name: getattr(self.totals, name)
                for name in ("read", "applied", "stale", "fenced", "ended", "dead")
            },
            "pending": self.pending,
            "unsettled": self.unsettled,
            "lag_ms": self.lags.quantiles(),
        }


class Missing(MisterSmithError):
    """Something that setup makes is not there any more."""

    retry = True
