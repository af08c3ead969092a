"""The connection pools of this process, one per alias: psycopg's, with what an outage and a fork ask for besides."""

import atexit
import os
import select
from collections.abc import Callable
from itertools import count
from time import monotonic, sleep
from typing import Any, cast
from weakref import WeakKeyDictionary, WeakSet

from psycopg_pool import ConnectionPool, PoolTimeout

from pg.guard import NotPrimary
from pg.opener import Connection, Opener, guard

CHECK_PAUSE_SECONDS = 0.1
TRUSTED_SECONDS = 0.5  # one that came back so lately is not asked again, if its socket is silent
RECONNECT_SECONDS = (
    1.0  # after that a pool without a server gives up, and the next request tries anew at once
)


class PoolExhausted(PoolTimeout):
    """All connections of the pool were in use for as long as a request may wait."""


class Pool(ConnectionPool[Any]):
    """A pool that says at once that its server is away, instead of letting everybody wait for the acquire time-out, and
    that tries again with the next request, instead of after a pause that doubles."""

    def __init__(self, opener: Opener, **options: Any) -> None:
        self.opener = opener
        self.living: WeakSet[Connection] = WeakSet()
        super().__init__(
            connection_class=opener,  # type: ignore[arg-type]  # has the one method that the pool calls
            reconnect_timeout=RECONNECT_SECONDS,
            open=False,
            **options,
        )

    def _connect(self, timeout: float | None = None) -> Any:
        try:
            connection = super()._connect(timeout)
        except Exception as error:
            if not any(not one.closed for one in list(self.living)):
                self.fail_waiting(error)
            raise
        self.living.add(connection)
        return connection

    def open_beside(self) -> Connection:
        """Return a connection as the pool would open one, that does not count as one of it."""
        return self.opener.connect(**cast("dict[str, Any]", self.kwargs))

    def fail_waiting(self, error: Exception) -> None:
        """No connection is open, and none can be opened: nobody would come back with one."""
        with self._lock:
            waiting = list(self._waiting)
            self._waiting.clear()
        for place in waiting:
            place.fail(error)

    def _getconn_with_check_loop(self, deadline: float) -> Any:
        """As psycopg's, without its pauses between one broken connection and the next: after a restart of the server
        all of them are, and each is replaced as it is found."""
        for turn in count():
            connection = self._getconn_unchecked(deadline - monotonic())
            try:
                self._check_connection(connection)
            except Exception:
                self._putconn(connection, from_getconn=True)
            except BaseException:
                self._putconn(connection, from_getconn=True)
                raise
            else:
                return connection
            if turn > self.max_size:
                sleep(CHECK_PAUSE_SECONDS)

    def _get_ready_connection(self, timeout: float | None) -> Any:
        """As psycopg's, but the one that came back last goes first: it has its plans and needs no look, and those that
        nobody needs lie idle long enough to be given up."""
        self._pool.rotate(1)
        return super()._get_ready_connection(timeout)

    def _putconn(self, connection: Any, from_getconn: bool) -> None:
        if not from_getconn:
            _returned_at[connection] = monotonic()
        super()._putconn(connection, from_getconn)

    def getconn(self, timeout: float | None = None) -> Any:
        """As psycopg's. Raises PoolExhausted with what to do."""
        try:
            return super().getconn(timeout)
        except PoolTimeout as error:
            seconds = self.timeout if timeout is None else timeout
            stats = self.get_stats()
            raise PoolExhausted(
                f"the pool {self.name} of process {os.getpid()} gave no connection within {seconds:g} s: it has"
                f" {stats['pool_size']} of {self.max_size}, {stats['requests_waiting']} requests wait. HINT: see"
                f" `manage.py pools status`, and MISTERSMITH_POOL_{self.name.upper()}"
            ) from error


_returned_at: WeakKeyDictionary[Connection, float] = WeakKeyDictionary()


def check(connection: Connection) -> None:
    """Look at a connection before it is handed out; an error throws it away, and the pool takes another one.

    The server is asked, but where the connection has just come back and nothing has arrived since: a server that ends
    a session, or itself, says so or closes the socket. What only the network knows costs a TRUSTED_SECONDS at most.
    """
    if guard().is_outdated(connection):
        connection.close()
        raise NotPrimary("its server was the primary once")
    if not is_trusted(connection):
        ConnectionPool.check_connection(connection)
    if guard().writes(connection) and connection.info.parameter_status("in_hot_standby") == "on":
        connection.close()
        raise NotPrimary("its server is a standby now")


def is_trusted(connection: Connection) -> bool:
    since = monotonic() - _returned_at.get(connection, 0.0)
    return since < TRUSTED_SECONDS and not has_arrived(connection)


def has_arrived(connection: Connection) -> bool:
    """Tell whether an idle connection has something to read: a farewell, or its end."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


# -- the pools of this process ------------------------------------------------------------------------------
_pools: dict[str, Pool] = {}
_singles: dict[str, WeakSet[Connection]] = {}  # by alias: connections of a process without pools
_to_tell: list[Callable[[], None]] = []
_of_parent: list[Pool] = []  # never collected: that would end connections which the parent uses


def pools() -> dict[str, Pool]:
    """Return the pools that this process has opened, by alias."""
    return _pools


def when_first_opened(call: Callable[[], None]) -> None:
    """Have `call` called whenever this process opens a pool, or a connection without one: more than once."""
    _to_tell.append(call)


def tell_opened() -> None:
    for call in _to_tell:
        call()


def note_single(alias: str, connection: Connection) -> None:
    """Remember a connection that belongs to no pool, for as long as it is open."""
    _singles.setdefault(alias, WeakSet()).add(connection)
    tell_opened()


def count_singles() -> dict[str, int]:
    """Return how many connections without a pool this process has open, by alias."""
    return {alias: sum(not one.closed for one in list(found)) for alias, found in list(_singles.items())}


def forget_pools() -> None:
    """In a forked child: the parent's pools are not ours, and their threads are not here."""
    _of_parent.extend(_pools.values())
    _pools.clear()
    _singles.clear()


def close_pools() -> None:
    """Close this process's pools; the next request opens them anew. Connections in use are closed when they come
    back."""
    for alias in list(_pools):
        if pool := _pools.pop(alias, None):
            pool.close()


os.register_at_fork(after_in_child=forget_pools)
atexit.register(close_pools)  # the interpreter would wait seconds for their threads
