"""The process's way to NATS: one daemon thread with an event loop, one connection, made at first use.

Django and Celery are synchronous and fork; nothing here runs at import. A forked child forgets what its parent had and
makes its own at its first call.
"""

import asyncio
import atexit
import concurrent.futures
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import nats.errors
import nats.js.errors
from django.conf import settings
from nats.aio.client import Client as NatsClient
from nats.js import JetStreamContext

from bridge.publisher import Publisher
from bridge.servers import connect_options, where
from pg.errors import Unreachable

log = logging.getLogger(__name__)
T = TypeVar("T")

CONNECT_SECONDS = 2
RECONNECT_SECONDS = 0.2
SPACING_SECONDS = 0.005  # the relay itself leaves 10 ms between its batches
API_SECONDS = 5
PATIENCE_SECONDS = 5  # for the first connection, however long the work itself may take
PENDING_BYTES = 16 << 20
HINT = "is nats-server up? run `manage.py status`, start it with `make up`, or correct NATS_URL"


@dataclass(frozen=True)
class Client:
    """What work on the loop gets."""

    nc: NatsClient
    jetstream: JetStreamContext
    publisher: Publisher


class Link:
    """One loop thread and its connection, which looks for the servers in `url` (comma separated), and for those that
    they tell of, until closed. `where` names them for people. Raises Refused for an `url` that cannot be meant."""

    def __init__(self, url: str) -> None:
        self.options = connect_options(url)
        self.where = where(url)
        self.last_error = "not connected yet"
        self.reconnects = 0
        self._closing = False
        self._nc: NatsClient | None = None
        self._due: set[tuple[str, bytes]] = set()  # what is to be sent, and when each was last
        self._last_sent: dict[tuple[str, bytes], float] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="nats", daemon=True)
        self._thread.start()
        self._client = asyncio.run_coroutine_threadsafe(self._connect(), self._loop)

    def call(self, work: Callable[[Client], Coroutine[Any, Any, T]], timeout_seconds: float) -> T:
        """Run `work(client)` on the loop and return what it returns.

        Raises Unreachable at the deadline, after PATIENCE_SECONDS without a first connection, and at once while a
        lost connection is not back.
        """
        deadline = time.monotonic() + timeout_seconds
        running = self.begin(work, timeout_seconds)
        try:
            return self._wait_for(running, deadline)
        except (
            nats.errors.TimeoutError,
            nats.errors.NoRespondersError,
            nats.errors.ConnectionClosedError,
            nats.js.errors.ServiceUnavailableError,  # a cluster that elects its leader
        ) as e:
            raise Unreachable(f"NATS at {self.where}: {e}", HINT) from e
        finally:
            running.cancel()  # nothing to cancel unless the deadline passed

    def begin(
        self, work: Callable[[Client], Coroutine[Any, Any, T]], timeout_seconds: float
    ) -> "concurrent.futures.Future[T]":
        """Begin `work(client)` on the loop and return its future. Raises Unreachable as `call` does, but for what
        happens to the work."""
        client = self._wait_for(self._client, time.monotonic() + min(timeout_seconds, PATIENCE_SECONDS))
        if not client.nc.is_connected:
            raise self._unreachable()
        return asyncio.run_coroutine_threadsafe(work(client), self._loop)

    def send(self, subject: str, data: bytes = b"") -> None:
        """Publish a core message if the connection is up; nobody learns whether it arrives.

        At most one of its kind every SPACING_SECONDS: of those that are asked for meanwhile, one goes out at the end.
        """
        message = subject, data
        if message not in self._due and self.is_connected():
            self._due.add(message)
            self._loop.call_soon_threadsafe(self._send_in_time, message)

    def _send_in_time(self, message: tuple[str, bytes]) -> None:
        moment = self._last_sent.get(message, 0.0) + SPACING_SECONDS
        self._loop.call_at(max(moment, self._loop.time()), self._send, message)

    def _send(self, message: tuple[str, bytes]) -> None:
        self._due.discard(message)  # first: what is asked for from now on is sent again
        self._last_sent[message] = self._loop.time()
        sending = self._loop.create_task(self._client.result().nc.publish(*message))
        self._sending.add(sending)
        sending.add_done_callback(self._forget)

    def _forget(self, sending: "asyncio.Task[None]") -> None:
        self._sending.discard(sending)
        if not sending.cancelled() and (error := sending.exception()):
            log.debug("not sent: %s", error)

    def is_connected(self) -> bool:
        """Tell whether the connection is up at this moment; never waits."""
        if not self._client.done() or self._client.cancelled() or self._client.exception():
            return False
        return bool(self._client.result().nc.is_connected)

    def close(self) -> None:
        """Close the connection and end the thread; nothing that waits is answered."""
        self._closing = True
        ended = asyncio.run_coroutine_threadsafe(self._shut(), self._loop)
        concurrent.futures.wait([ended], timeout=CONNECT_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=CONNECT_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()

    # -- on the loop ------------------------------------------------------------------------------------------
    async def _connect(self) -> Client:
        while True:
            try:
                nc = await self._open()
                return Client(nc, nc.jetstream(timeout=API_SECONDS), await Publisher(nc).start())
            except (OSError, nats.errors.Error, TimeoutError) as error:
                await self._note_error(error)
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _open(self) -> NatsClient:
        self._drop_transport()
        self._nc = NatsClient()
        await self._nc.connect(
            **self.options,
            name="mistersmith",
            connect_timeout=CONNECT_SECONDS,
            reconnect_time_wait=RECONNECT_SECONDS,
            max_reconnect_attempts=-1,
            ping_interval=5,
            max_outstanding_pings=2,
            pending_size=PENDING_BYTES,
            error_cb=self._note_error,
            disconnected_cb=self._note_loss,
            reconnected_cb=self._note_return,
            closed_cb=self._reopen,
        )
        return self._nc

    async def _note_error(self, error: Exception) -> None:
        if self._nc is not None and not self._nc.is_connected:
            self._drop_transport()
        text = f"{type(error).__name__}: {error}".rstrip(": ")
        level = logging.DEBUG if text == self.last_error else logging.WARNING  # an outage repeats itself
        self.last_error = text
        log.log(level, "NATS at %s: %s", self.where, text)

    async def _note_loss(self) -> None:
        if not self._closing:
            log.warning("NATS at %s: connection lost, looking for it", self.where)

    async def _note_return(self) -> None:
        self.reconnects += 1
        self.last_error = ""
        log.warning("NATS at %s: connected again", self.where)

    async def _reopen(self) -> None:
        """A client that gave up (bad credentials, for instance) is closed for ever: begin with a new one."""
        if not self._closing and self._client.done():
            await asyncio.sleep(RECONNECT_SECONDS)
            self._client = asyncio.run_coroutine_threadsafe(self._connect(), self._loop)

    async def _shut(self) -> None:
        self._client.cancel()
        if self._client.done() and not self._client.cancelled() and not self._client.exception():
            await self._client.result().nc.close()
        # asyncio.wait_for (before Python 3.12) forgets a cancellation that meets its answer: so until all have ended
        while rest := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in rest:
                task.cancel()
            await asyncio.wait([asyncio.gather(*rest, return_exceptions=True)], timeout=0.1)
        self._drop_transport()
        await asyncio.sleep(0)  # lets the loop close the socket

    def _drop_transport(self) -> None:
        """Close the socket of a client that was stopped while it connected or closed itself, or whose server hung up in
        the middle of a greeting: nats-py (2.16) leaves it open, and close() of such a client does nothing."""
        if self._nc is not None and self._nc._transport is not None:
            self._nc._transport.close()

    # -- helpers ----------------------------------------------------------------------------------------------
    def _wait_for(self, future: "concurrent.futures.Future[T]", deadline: float) -> T:
        done, _ = concurrent.futures.wait([future], timeout=max(0.0, deadline - time.monotonic()))
        if not done:
            raise self._unreachable()
        return future.result()

    def _unreachable(self) -> Unreachable:
        return Unreachable(f"NATS at {self.where} does not answer ({self.last_error or 'no answer'})", HINT)


_link: Link | None = None
_lock = threading.Lock()
_other: ContextVar[Link | None] = ContextVar("bridge link", default=None)


def link() -> Link:
    """Return the process's link; the first call starts its thread and does not wait for the connection."""
    global _link
    if (other := _other.get()) is not None:
        return other
    with _lock:
        if _link is None:
            _link = Link(settings.NATS_URL)
        return _link


def call(work: Callable[[Client], Coroutine[Any, Any, T]], timeout_seconds: float = API_SECONDS) -> T:
    """Run `work(client)` on the process's link. Raises Unreachable."""
    return link().call(work, timeout_seconds)


@contextmanager
def linked_to(url: str) -> Iterator[None]:
    """Let this thread's calls in the block go to another server: a throw-away one, for instance."""
    other = Link(url)
    token = _other.set(other)
    try:
        yield
    finally:
        _other.reset(token)
        other.close()


def close() -> None:
    """End the process's link; the next call makes a new one (with settings as they are then)."""
    global _link
    with _lock:
        old, _link = _link, None
    if old is not None:
        old.close()


def _forget() -> None:
    """In a forked child: the parent's thread does not exist here, its socket must not be used."""
    global _link, _lock
    _link, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
atexit.register(close)
