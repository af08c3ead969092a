"""Where reads go: the primary, a replica, the analytics server. Code asks for it; what does not ask reads the primary.

    with from_replicas():      # what may be a moment old
    with from_analytics():     # large reports
    with from_primary():       # within one of the others: exactly now

A request or task that has written sees its writes: until a replica has replayed them, it reads the primary. Within a
transaction of the primary all reads stay in it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from django.db import DEFAULT_DB_ALIAS, InterfaceError, OperationalError, connections

PRIMARY, REPLICAS, ANALYTICS = "primary", "replicas", "analytics"
# the words that statements begin with which change nothing; a function called by SELECT may: see `note_write`
READING = {
    "BEGIN",
    "CLOSE",
    "DECLARE",
    "EXPLAIN",
    "FETCH",
    "RELEASE",
    "RESET",
    "ROLLBACK",
    "SAVEPOINT",
    "SELECT",
}
READING |= {"SET", "SHOW", "VALUES"}
INSERT_LSN = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"


class Mark:
    """How far a replica must be to show what this request or task has written: a position in the WAL in bytes."""

    __slots__ = ("has_written", "lsn")

    def __init__(self, lsn: int = 0) -> None:
        self.lsn = lsn
        self.has_written = False  # since `lsn` was asked for


_where: ContextVar[str] = ContextVar("where", default=PRIMARY)
_mark: ContextVar[Mark | None] = ContextVar("mark", default=None)


@contextmanager
def unit(lsn: int = 0) -> Iterator[Mark]:
    """Begin a request or a task; `lsn`: what its reader has seen before."""
    mark = Mark(lsn)
    token = _mark.set(mark)
    try:
        yield mark
    finally:
        _mark.reset(token)


@contextmanager
def reading_from(where: str) -> Iterator[None]:
    token = _where.set(where)
    try:
        yield
    finally:
        _where.reset(token)


def from_primary() -> Any:
    return reading_from(PRIMARY)


def from_replicas() -> Any:
    return reading_from(REPLICAS)


def from_analytics() -> Any:
    return reading_from(ANALYTICS)


def where() -> str:
    return _where.get()


# -- what was written -----------------------------------------------------------------------------------------
def note_write() -> None:
    """Say that this request or task has written, for what cannot be seen: a function that writes, called by SELECT."""
    mark = _mark.get()
    if mark is None:
        _mark.set(mark := Mark())
    mark.has_written = True


def note_writes(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
    """An execute wrapper of the primary's connections."""
    if not is_reading(sql):
        note_write()
    return execute(sql, params, many, context)


def is_reading(sql: Any) -> bool:
    """Tell whether a statement only reads, as far as its first word says."""
    words = sql.lstrip("\n (")[:9].split(None, 1) if isinstance(sql, str) else []
    return bool(words) and words[0].rstrip(";").upper() in READING


def needed_lsn() -> int:
    """Return how far a replica must be; asks the primary once after each write (a query there)."""
    mark = _mark.get()
    if mark is None:
        return 0
    if mark.has_written:
        mark.lsn = max(mark.lsn, current_lsn())
        mark.has_written = False
    return mark.lsn


def current_lsn() -> int:
    with connections[DEFAULT_DB_ALIAS].cursor() as cursor:
        cursor.execute(INSERT_LSN)
        return int(cursor.fetchone()[0])


# -- what failed ----------------------------------------------------------------------------------------------
def note_failures(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
    """An execute wrapper of a replica's connections: one that breaks opens the replica's circuit breaker."""
    try:
        return execute(sql, params, many, context)
    except (OperationalError, InterfaceError) as error:
        connection = context["connection"]
        if connection.connection is None or connection.connection.closed or connection.connection.broken:
            from pg.replicas import replicas

            replicas().failed(connection.alias, str(error))
        raise
