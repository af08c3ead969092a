"""Run one claimed task's handler, and say what came of it. Nothing here writes to the queue."""

import asyncio
import inspect
import logging
import os
import signal
import threading
import traceback
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

from asgiref.sync import async_to_sync
from django.conf import settings
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from monitoring import tracing
from monitoring.logs import log_ids
from pg.json import dump_json, without_nul
from tasks.attempt_log import keep_log
from tasks.claim import Claimed, Failure
from tasks.context import TaskContext
from tasks.models import Task
from tasks.payloads import find_fault
from tasks.policy import PermanentFailure, Policy, RetryLater, TaskTimedOut
from tasks.redact import redact
from tasks.registry import get_handler
from tasks.usage import Meter, Usage

log = logging.getLogger(__name__)
MESSAGE_LENGTH = 1_000
TRACEBACK_LENGTH = 20_000
_limit_seconds = 0.0  # of what runs in the main thread
is_async = cache(inspect.iscoroutinefunction)


@dataclass(frozen=True)
class Outcome:
    """`failure` None: the handler returned `result`. `logs`: the last lines of its log, None where there are none."""

    result: Any
    failure: Failure | None
    usage: Usage
    logs: str | None = None


def run_handler(claimed: Claimed, context: TaskContext, ours: Collection[str] | None = None) -> Outcome:
    """Call the type's handler within its time; whatever it raises, SystemExit included, becomes a failure.

    `ours`: the caller's `open_transactions()`, for one that runs many; None: they are looked for. A process that the
    handler forked and that comes back here ends at once. Raises UnknownTaskType.
    """
    handler = get_handler(claimed.task_type)
    if ours is None:
        ours = open_transactions()
    pid, meter = os.getpid(), Meter()
    result, failure = None, None
    ids = log_ids(task_id=claimed.task_id, attempt=claimed.attempt, agent_id=claimed.worker)
    with trace_of(claimed), ids, keep_log() as log_of_attempt:
        try:
            require_payload(claimed, handler.policy)
            result = call(handler.function, context, claimed.timeout_seconds)
            dump_result(claimed.task_type, result)
        except (
            BaseException
        ) as error:  # SystemExit and KeyboardInterrupt of a handler must not end the worker
            failure = describe(error, handler.policy, claimed.retry_count)
            tracing.fail(failure.message)
    if os.getpid() != pid:
        os._exit(0)
    leave_connections_clean(ours)
    return Outcome(result, failure, meter.read(), log_of_attempt.text())


def trace_of(claimed: Claimed) -> AbstractContextManager[None]:
    """Return the span of this attempt, in the trace in which the task was enqueued. One query, where traces are on."""
    if not settings.TRACING:
        return nullcontext()
    found = Task.objects.filter(task_type=claimed.task_type, task_id=claimed.task_id)
    return tracing.span(
        f"run {claimed.task_type}",
        "consumer",
        found.values_list(f"metadata__{tracing.HEADER}", flat=True).first(),
        **{"task.id": str(claimed.task_id), "task.type": claimed.task_type, "task.attempt": claimed.attempt},
    )


def require_payload(claimed: Claimed, policy: Policy) -> None:
    """Raise PermanentFailure for a payload that does not match the type's schema: a row may come by any way."""
    fault = find_fault(claimed.payload, policy.payload_schema) if policy.payload_schema is not None else None
    if fault:
        raise PermanentFailure(f"payload does not match the schema of {claimed.task_type}: {fault}")


def call(function: Any, context: TaskContext, timeout_seconds: float) -> Any:
    if is_async(function):
        return async_to_sync(wait_for)(function, context, timeout_seconds)
    context.stopped_clocks.append(alarm_stopped)
    with time_limit(timeout_seconds):
        return function(context)


async def wait_for(function: Any, context: TaskContext, timeout_seconds: float) -> Any:
    try:
        async with asyncio.timeout(timeout_seconds) as limit:
            context.stopped_clocks.append(lambda: limit_stopped(limit))
            return await function(context)
    except TimeoutError as error:
        if limit.expired():
            raise timed_out(timeout_seconds) from error
        raise


@contextmanager
def time_limit(timeout_seconds: float) -> Iterator[None]:
    """Raise TaskTimedOut inside the block after `timeout_seconds`, by SIGALRM.

    Only in a process's main thread, as in Celery's prefork and solo pools; elsewhere only the lease limits a task. What
    answers SIGALRM stays: putting back what was there costs more than the rest of this.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    global _limit_seconds
    _limit_seconds = timeout_seconds
    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, timeout_seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def interrupt(number: int, frame: Any) -> None:
    raise timed_out(_limit_seconds)


@contextmanager
def alarm_stopped() -> Iterator[None]:
    """Let `time_limit` not run inside the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)


@contextmanager
def limit_stopped(limit: asyncio.Timeout) -> Iterator[None]:
    """The same for an async handler."""
    loop, until = asyncio.get_running_loop(), limit.when()
    began = loop.time()
    limit.reschedule(None)
    try:
        yield
    finally:
        limit.reschedule(until and until + loop.time() - began)


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


def describe(error: BaseException, policy: Policy, retry_count: int) -> Failure:
    """Return the failure for people (one line) and for the record (type, traceback): bounded, secrets taken out."""
    message = str(error) if isinstance(error, PermanentFailure | RetryLater | TaskTimedOut) else ""
    message = message or f"{type(error).__name__}: {error}".rstrip(": ")
    lines = "".join(traceback.format_exception(error))
    details = {
        "type": f"{type(error).__module__}.{type(error).__qualname__}",
        "traceback": without_nul(redact(lines)[-TRACEBACK_LENGTH:]),
    }
    is_permanent, delay_seconds = decide_retry(error, policy, retry_count)
    return Failure(without_nul(redact(message)[:MESSAGE_LENGTH]), details, is_permanent, delay_seconds)


def decide_retry(error: BaseException, policy: Policy, retry_count: int) -> tuple[bool, float]:
    """Return whether the failure is permanent, and the delay before the next attempt, by the policy's rules."""
    if isinstance(error, RetryLater):
        return False, error.delay_seconds
    rule = policy.rule_for(error)
    if rule is None or (rule.max_retries is not None and retry_count >= rule.max_retries):
        return True, 0.0
    return False, rule.seconds(retry_count)


def made_connections() -> list[BaseDatabaseWrapper]:
    """Return those that this thread has made so far, as `connections.all(initialized_only=True)` at a tenth of the
    price: each task pays for it."""
    made = vars(connections._connections._get_storage())  # type: ignore[attr-defined]
    return [made[alias] for alias in connections.settings if alias in made]


def open_transactions() -> set[str]:
    """Return the aliases of the connections that are inside a transaction."""
    return {db.alias for db in made_connections() if is_inside(db)}


def is_inside(db: BaseDatabaseWrapper) -> bool:
    return db.connection is not None and (db.in_atomic_block or not db.get_autocommit())


def leave_connections_clean(ours: Collection[str]) -> None:
    """Drop connections that the handler left inside a transaction, or broken: the next task gets fresh ones.

    `ours`: aliases that were inside one before the handler began; they are the caller's. The others are kept: taking
    one out of the pool for each task, and looking at it, costs more than a short task does (config.celery lets go of
    them between jobs).
    """
    for db in made_connections():
        if db.alias in ours:
            continue
        if is_inside(db):
            log.warning("a handler left a transaction of %s open: rolled back", db.alias)
            db.close()
            del connections[db.alias]
        elif db.errors_occurred:
            db.close_if_unusable_or_obsolete()
