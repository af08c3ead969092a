"""Locks: the one that keeps two runs from one table, and waiting for those of others without making anybody else wait.

A statement that waits for a strong lock makes all that come after it wait too. So each DDL statement waits for at most
`PARTITIONS_LOCK_TIMEOUT_MS`, lets everybody pass, and tries again after a random pause.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from django.conf import settings
from django.db import OperationalError, connection

from partitions.errors import Busy

LOCK_TIMEOUT_MS = 1000
PATIENCE_SECONDS = 20
PAUSE_SECONDS = (0.1, 1.0)
TRY_AGAIN = ("55P03", "40P01")  # lock_not_available, deadlock_detected


@dataclass(frozen=True)
class Effort:
    """What a step cost. `lock_wait_ms`: how long it stood in line, failed tries included."""

    tries: int = 1
    lock_wait_ms: int = 0


def patiently(work: Callable[[], int]) -> Effort:
    """Call `work` until it gets its locks. It returns the milliseconds that it waited for them, and is safe to repeat.

    Raises Busy when they were not to be had for PATIENCE_SECONDS.
    """
    deadline, waited_ms, tries = time.monotonic() + PATIENCE_SECONDS, 0, 0
    while True:
        started, tries = time.monotonic(), tries + 1
        try:
            with lock_timeout():
                return Effort(tries, waited_ms + work())
        except OperationalError as error:
            if getattr(error.__cause__, "sqlstate", None) not in TRY_AGAIN:
                raise
            waited_ms += elapsed_ms(started)
            if time.monotonic() > deadline:
                raise Busy(
                    f"no lock in {tries} tries, {waited_ms} ms of waiting: {error}".strip(),
                    "the next run tries again; pg_blocking_pids() names who is in the way",
                ) from error
        time.sleep(random.uniform(*PAUSE_SECONDS))  # noqa: S311  jitter, not a secret


def execute_patiently(statement: str) -> Effort:
    """Run one DDL statement so, outside of transactions where it says CONCURRENTLY."""

    def work() -> int:
        with connection.cursor() as cursor:
            cursor.execute(statement)
        return 0

    return patiently(work)


def elapsed_ms(started: float) -> int:
    return round((time.monotonic() - started) * 1000)


@contextmanager
def lock_timeout() -> Iterator[None]:
    """Let statements of this session wait for locks no longer than the setting says."""
    limit_ms = int(getattr(settings, "PARTITIONS_LOCK_TIMEOUT_MS", LOCK_TIMEOUT_MS))
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = {limit_ms}")
    try:
        yield
    finally:
        if connection.connection is not None and not connection.connection.broken:
            with connection.cursor() as cursor:
                cursor.execute("RESET lock_timeout")


@contextmanager
def table_lock(table: str) -> Iterator[bool]:
    """Hold the upkeep lock of a table for this session; yield False when somebody else has it."""
    with session_lock("partitions.upkeep", table) as is_ours:
        yield is_ours


@contextmanager
def session_lock(space: str, name: str) -> Iterator[bool]:
    """Hold an advisory lock; it goes with the session if the process dies. Yield False when it is taken."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(hashtext(%s), hashtext(%s))", [space, name])
        is_ours: bool = cursor.fetchone()[0]
    try:
        yield is_ours
    finally:
        if is_ours and connection.connection is not None and not connection.connection.broken:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(hashtext(%s), hashtext(%s))", [space, name])
