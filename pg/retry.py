"""Runs what may run again once more when its server went away: never within a transaction, never for ever."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from django.db import InterfaceError, OperationalError, connections

T = TypeVar("T")
log = logging.getLogger(__name__)
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 1.0
# SQLSTATEs: connection failures (08), shut down, crashed, starting (57P), written to a standby
OUTAGE_CLASSES, READ_ONLY = ("08", "57P"), "25006"


def retrying(
    work: Callable[[], T], patience_seconds: float = 10, sleep: Callable[[float], None] = time.sleep
) -> T:
    """Run idempotent `work`; run it again while its server is away or no primary (any more), for at most
    `patience_seconds`. Raises the last error. Within a transaction it runs once: who began the transaction decides."""
    deadline = time.monotonic() + patience_seconds
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return work()
        except (OperationalError, InterfaceError) as error:
            if not is_outage(error) or is_in_transaction() or time.monotonic() + pause > deadline:
                raise
            log.info("tried again: %s", error)
            drop_connections()
        sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def is_outage(error: BaseException) -> bool:
    """Tell whether an error means that the server is away, or is not the primary: the statement was not done, or nobody
    knows whether it was. A pool that is exhausted is none: trying again makes it worse."""
    from pg.pool import PoolExhausted

    cause = error.__cause__
    if isinstance(cause, PoolExhausted):
        return False
    state = getattr(cause, "sqlstate", None)
    return state is None or state.startswith(OUTAGE_CLASSES) or state == READ_ONLY


def is_in_transaction() -> bool:
    return any(one.in_atomic_block for one in connections.all(initialized_only=True))


def drop_connections() -> None:
    """What is broken must go, and what leads to a server that is no primary; a pool looks at each before it gives it
    out."""
    for one in connections.all(initialized_only=True):
        one.close()
