"""Checks that `doctor` and /readyz run, and figures that /metrics shows. Rooms add theirs in `AppConfig.ready`.

Nothing here knows a room: the arrows point downwards.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

from django.db import connection, transaction

from pg.reads import from_primary

T = TypeVar("T")
log = logging.getLogger(__name__)
Sample = tuple[dict[str, str], float]  # labels, value


@dataclass(frozen=True)
class Finding:
    """One thing a check looked at. `hint` says what to do when it is not ok."""

    ok: bool
    detail: str
    hint: str = ""


@dataclass(frozen=True)
class Check:
    name: str  # "<room>.<what>", for instance "partitions.cover"
    look: Callable[[], Iterable[Finding]]
    gates_ready: bool = False  # /readyz says no while it is not ok


@dataclass(frozen=True)
class Metric:
    name: str  # Prometheus style with the unit at the end: "mistersmith_outbox_rows"
    help: str
    read: Callable[[], Iterable[Sample]]


_checks: dict[str, Check] = {}
_metrics: dict[str, Metric] = {}


def register_check(name: str, look: Callable[[], Iterable[Finding]], *, gates_ready: bool = False) -> None:
    """Add a check, or replace the one of that name (so that a reload does not double it)."""
    _checks[name] = Check(name, look, gates_ready)


def register_metric(name: str, help: str, read: Callable[[], Iterable[Sample]]) -> None:
    """Add a metric, or replace the one of that name."""
    _metrics[name] = Metric(name, help, read)


def checks() -> list[Check]:
    return [_checks[name] for name in sorted(_checks)]


def metrics() -> list[Metric]:
    return [_metrics[name] for name in sorted(_metrics)]


# -- reading metrics ----------------------------------------------------------------------------------------
_memo: ContextVar[dict[Any, Any] | None] = ContextVar("memo", default=None)


@contextmanager
def one_reading() -> Iterator[None]:
    """Within it, one scrape or one round of the alarms, functions that are `shared` ask the server once."""
    token = _memo.set({})
    try:
        with from_primary():
            yield
    finally:
        _memo.reset(token)


def shared(read: Callable[[], T]) -> Callable[[], T]:
    """Let the metrics of one reading share what a function without arguments returns; elsewhere it is called each
    time. It must return a value, not an iterator."""

    @wraps(read)
    def once() -> T:
        memo = _memo.get()
        if memo is None:
            return read()
        if read not in memo:
            memo[read] = read()
        found: T = memo[read]
        return found

    return once


def read_metric(metric: Metric) -> list[Sample]:
    """Return the samples. Raises whatever reading raises; the session can be used afterwards. A statement is a
    transaction of its own, unless somebody has begun one: BEGIN and COMMIT would be two thirds of a scrape's round
    trips."""
    try:
        with transaction.atomic() if connection.in_atomic_block else nullcontext():
            return list(metric.read())
    except Exception:
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()
        raise


def run_check(check: Check) -> list[Finding]:
    """Return what the check found; an exception inside it is a finding too, so that doctor never stops half-way."""
    try:
        return list(check.look())
    except Exception as error:  # the check itself broke: that is what doctor must report
        return [Finding(False, f"{type(error).__name__}: {error}".strip(), "see docs/troubleshoot.md")]
