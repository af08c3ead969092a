"""Each process says every few seconds what it does with its connections: rows of monitoring.process_pools.

Pages and /metrics are answered by one process and must tell of all, on whatever machine they run.
"""

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections

from pg.pool import Pool, count_singles, pools, when_first_opened
from pg.uuid7 import uuid7

log = logging.getLogger(__name__)
FIRST_SECONDS, EVERY_SECONDS = 1, 15
FORGET = "DELETE FROM monitoring.process_pools WHERE seen_at < now() - interval '1 day'"
NOTE = """
INSERT INTO monitoring.process_pools (pool_id, process, host, pid, pool, maximum, connections, idle, waiting, requests,
  waited_seconds, refused, lost)
VALUES (%(pool_id)s, %(process)s, %(host)s, %(pid)s, %(pool)s, %(maximum)s, %(connections)s, %(idle)s, %(waiting)s,
  %(requests)s, %(waited_seconds)s, %(refused)s, %(lost)s)
ON CONFLICT (pool_id) DO UPDATE SET connections = EXCLUDED.connections, idle = EXCLUDED.idle,
  waiting = EXCLUDED.waiting, requests = EXCLUDED.requests, waited_seconds = EXCLUDED.waited_seconds,
  refused = EXCLUDED.refused, lost = EXCLUDED.lost, seen_at = now()
"""
_ids: dict[str, UUID] = {}  # of this process, by alias
_thread: threading.Thread | None = None
_lock = threading.Lock()


def register() -> None:
    when_first_opened(ensure_reporter)
    os.register_at_fork(after_in_child=forget)


def ensure_reporter() -> None:
    """Begin to report, unless this process does already or is a command, which is over soon. The thread ends with the
    process."""
    global _thread
    if _thread is not None or settings.PROCESS_KIND == "command":
        return
    with _lock:
        if _thread is None:
            _thread = threading.Thread(target=report_for_ever, name="process-pools", daemon=True)
            _thread.start()


def forget() -> None:
    """In a forked child: the thread is not here, and the ids are the parent's."""
    global _thread, _lock
    _thread, _lock = None, threading.Lock()
    _ids.clear()


def report_for_ever() -> None:
    pause = threading.Event()
    pause.wait(FIRST_SECONDS)  # what has opened the pool gets its connection first
    while True:
        try:
            report()
        except Exception as error:  # a server that is away is told elsewhere; the next turn tries again
            log.debug("the figures of the pools were not written: %s", error)
        pause.wait(EVERY_SECONDS)


def report() -> None:
    """Write this process's rows. Safe twice: the newest figures stand."""
    rows = read_own()
    with session() as cursor:
        cursor.executemany(NOTE, rows)
        cursor.execute(FORGET)


@contextmanager
def session() -> Iterator[Any]:
    """Give a cursor: of the process's own connections, or, where all of its pool are in use, of a connection beside it.
    That nobody gets one is what the figures are to tell."""
    pool = pools().get(DEFAULT_DB_ALIAS)
    if pool is not None and not has_spare(pool):
        with pool.open_beside() as connection, connection.cursor() as cursor:
            yield cursor
        return
    own = connections[DEFAULT_DB_ALIAS]
    own.close_if_unusable_or_obsolete()
    try:
        with own.cursor() as cursor:
            yield cursor
    finally:
        if pool is not None:
            own.close()


def has_spare(pool: Pool) -> bool:
    stats = pool.get_stats()
    return stats["pool_available"] > 0 or stats["pool_size"] < stats["pool_max"]


# -- what there is to say -----------------------------------------------------------------------------------------
def read_own() -> list[dict[str, Any]]:
    """Return a row for each pool of this process, and for each alias that has connections without one."""
    found = {alias: figures_of(pool.get_stats()) for alias, pool in list(pools().items())}
    for alias, number in count_singles().items():
        found.setdefault(alias, {**figures_of({}), "maximum": None, "connections": number})
    whose = {"process": settings.PROCESS_KIND, "host": socket.gethostname(), "pid": os.getpid()}
    return [
        {**whose, "pool_id": _ids.setdefault(alias, uuid7()), "pool": alias, **figures}
        for alias, figures in found.items()
    ]


def figures_of(stats: dict[str, int]) -> dict[str, Any]:
    """Return columns from psycopg's statistics, which leave out what is 0."""
    return {
        "maximum": stats.get("pool_max", 0),
        "connections": stats.get("pool_size", 0),
        "idle": stats.get("pool_available", 0),
        "waiting": stats.get("requests_waiting", 0),
        "requests": stats.get("requests_num", 0),
        "waited_seconds": stats.get("requests_wait_ms", 0) / 1000,
        "refused": stats.get("requests_errors", 0),
        "lost": stats.get("connections_lost", 0),
    }
