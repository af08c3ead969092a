"""Run one claimed task's handler, and say what came of it. Nothing here writes to the queue."""

import asyncio
import inspect
import logging
import os
import resource
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from asgiref.sync import async_to_sync
from django.db import connections

from pg.json import dump_json, without_nul
from tasks.claim import Claimed, Failure, Usage
from tasks.context import TaskContext
from tasks.registry import PermanentFailure, TaskTimedOut, get_handler

log = logging.getLogger(__name__)
MESSAGE_LENGTH = 1_000
TRACEBACK_LENGTH = 20_000


@dataclass(frozen=True)
class Outcome:
    """`failure` None: the handler returned `result`."""

    result: Any
    failure: Failure | None
    usage: Usage


def run_handler(claimed: Claimed, context: TaskContext) -> Outcome:
    """Call the type's handler within its time; whatever it raises, SystemExit included, becomes a failure.

    A process that the handler forked and that comes back here ends at once. Raises UnknownTaskType.
    """
    function = get_handler(claimed.task_type).function
    pid, meter, ours = os.getpid(), Meter(), open_transactions()
    result, failure = None, None
    try:
        result = call(function, context, claimed.timeout_seconds)
        dump_result(claimed.task_type, result)
    except BaseException as error:  # SystemExit and KeyboardInterrupt of a handler must not end the worker
        failure = describe(error)
    if os.getpid() != pid:
        os._exit(0)
    leave_connections_clean(ours)
    return Outcome(result, failure, meter.read())


def call(function: Any, context: TaskContext, timeout_seconds: float) -> Any:
    if inspect.iscoroutinefunction(function):
        return async_to_sync(wait_for)(function, context, timeout_seconds)
    with time_limit(timeout_seconds):
        return function(context)


async def wait_for(function: Any, context: TaskContext, timeout_seconds: float) -> Any:
    try:
        async with asyncio.timeout(timeout_seconds) as limit:
            return await function(context)
    except TimeoutError as error:
        if limit.expired():
            raise timed_out(timeout_seconds) from error
        raise


@contextmanager
def time_limit(timeout_seconds: float) -> Iterator[None]:
    """Raise TaskTimedOut inside the block after `timeout_seconds`, by SIGALRM.

    Only in a process's main thread, as in Celery's prefork and solo pools; elsewhere only the lease limits a task.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise timed_out(timeout_seconds)

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, timeout_seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def timed_out(timeout_seconds: float) -> TaskTimedOut:
    return TaskTimedOut(f"timed out after {timeout_seconds:g} s")


def dump_result(task_type: str, result: Any) -> None:
    """Raise PermanentFailure for a result that cannot be stored: the next attempt would return the same."""
    try:
        dump_json(result)
    except ValueError as error:
        kind = type(result).__name__
        raise PermanentFailure(
            f"the handler of {task_type} returned a {kind} that cannot be stored: {error}"
        ) from error


def describe(error: BaseException) -> Failure:
    """Return the failure for people (one line) and for the record (type, traceback), of bounded size."""
    message = str(error) if isinstance(error, PermanentFailure | TaskTimedOut) else ""
    message = message or f"{type(error).__name__}: {error}".rstrip(": ")
    lines = "".join(traceback.format_exception(error))
    details = {
        "type": f"{type(error).__module__}.{type(error).__qualname__}",
        "traceback": without_nul(lines[-TRACEBACK_LENGTH:]),
    }
    return Failure(without_nul(message[:MESSAGE_LENGTH]), details, isinstance(error, PermanentFailure))


def open_transactions() -> set[str]:
    """Return the aliases of the connections that are inside a transaction."""
    return {
        connection.alias
        for connection in connections.all(initialized_only=True)
        if connection.connection is not None
        and (connection.in_atomic_block or not connection.get_autocommit())
    }


def leave_connections_clean(ours: set[str]) -> None:
    """Drop connections that the handler left inside a transaction, or broken: the next task gets fresh ones.

    `ours`: aliases that were inside one before the handler began; they are the caller's.
    """
    for alias in open_transactions() - ours:
        log.warning("a handler left a transaction of %s open: rolled back", alias)
        connections[alias].close()
        del connections[alias]
    for connection in connections.all(initialized_only=True):
        if connection.alias not in ours:
            connection.close_if_unusable_or_obsolete()


class Meter:
    """What this process uses from now on. The memory peak is of the whole process, since the last reset."""

    def __init__(self) -> None:
        self.cpu = time.process_time()
        self.blocks = _io_operations()
        self.has_own_peak = _reset_memory_peak()

    def read(self) -> Usage:
        return Usage(
            cpu_time_ms=round((time.process_time() - self.cpu) * 1000),
            memory_peak_mb=_memory_peak_mb(self.has_own_peak),
            io_operations=max(0, _io_operations() - self.blocks),
        )


def _io_operations() -> int:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_inblock + used.ru_oublock


def _reset_memory_peak() -> bool:
    """Start VmHWM anew; return False where the kernel does not let us."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return False
    return True


def _memory_peak_mb(has_own_peak: bool) -> int:
    if has_own_peak:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
