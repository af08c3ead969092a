"""Long jobs of a worker use the background pool: its role may make partitions, and nothing ends a statement of an
hour."""

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from celery import signals
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections

BACKGROUND = "background"
_usual: dict[str, Any] = {}  # by the id of the Celery message


@contextmanager
def background() -> Iterator[None]:
    """Let all that this thread does meanwhile, reads, writes and raw SQL, go through the background pool. Does
    nothing in a process whose own pool it is, or that has no pools and one server."""
    usual = begin() if has_own_background() else None
    try:
        yield
    finally:
        if usual is not None:
            end(usual)


def has_own_background() -> bool:
    entry = connections.settings[BACKGROUND]
    is_other = connections.settings[DEFAULT_DB_ALIAS]["POOL"] != BACKGROUND
    return is_other and ("pool" in entry["OPTIONS"] or not entry["IS_SHARED"])


def begin() -> Any:
    usual = connections[DEFAULT_DB_ALIAS]
    connections[DEFAULT_DB_ALIAS] = connections[BACKGROUND]
    return usual


def end(usual: Any) -> None:
    connections[BACKGROUND].close()
    connections[DEFAULT_DB_ALIAS] = usual


def is_background_job(name: str) -> bool:
    """Tell whether a job is one of BACKGROUND_JOBS, in a process whose own pool is another one."""
    return has_own_background() and any(fnmatchcase(name, pattern) for pattern in settings.BACKGROUND_JOBS)


def connect_signals() -> None:
    signals.task_prerun.connect(change_pool, weak=False, dispatch_uid="pg.background")
    signals.task_postrun.connect(change_back, weak=False, dispatch_uid="pg.background")


def change_pool(task_id: str, task: Any, **_: Any) -> None:
    if not task.request.is_eager and is_background_job(task.name):
        _usual[task_id] = begin()


def change_back(task_id: str, **_: Any) -> None:
    if usual := _usual.pop(task_id, None):
        end(usual)
