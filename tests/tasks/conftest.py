"""Handlers, agents and worker processes for the tests of the queue."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.db import connection

from agents.registry import register_agent
from tasks import jobs, registry, tickets
from tasks import worker as worker_module
from tasks.models import Task

ROOT = Path(__file__).parents[2]


def eventually(look: Callable[[], Any], timeout_seconds: float = 60) -> Any:
    """Look until something true is seen, and return it; fail after `timeout_seconds`."""
    deadline = time.monotonic() + timeout_seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"not seen within {timeout_seconds} s"
        time.sleep(0.02)
    return seen


def somebody_waits() -> bool:
    """Tell whether another session waits for this one. pg_stat_activity would show one moment per transaction only."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_locks"
            " WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid)))"
        )
        return bool(cursor.fetchone()[0])


def status_of(task_id: Any) -> str:
    return str(Task.objects.values_list("status", flat=True).get(pk=task_id))


@pytest.fixture
def handles() -> Iterator[Callable[..., None]]:
    """Register handlers for one test: `handles("type", function, max_retries=0)`."""
    before = dict(registry._handlers)

    def register(task_type: str, function: Any, **options: Any) -> None:
        registry.handler(task_type, **options)(function)

    yield register
    registry._handlers.clear()
    registry._handlers.update(before)


@pytest.fixture
def agent_id(db: None) -> Any:
    return register_agent("test", "claims by itself").agent_id


@pytest.fixture
def other_id(db: None) -> Any:
    return register_agent("test", "another one").agent_id


@pytest.fixture
def no_broker(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Tickets go nowhere: they are what this returns."""
    sent: list[Any] = []
    monkeypatch.setattr(tickets, "send", lambda *ticket: sent.append(ticket))
    return sent


@pytest.fixture
def this_worker(db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[worker_module.Worker]:
    """This process as a worker, without its heartbeat thread; a ticket runs until nothing is ready."""
    monkeypatch.setattr(jobs, "SLICE_SECONDS", 600)
    me = worker_module.Worker()
    worker_module._worker = me
    yield me
    worker_module._worker = None


class Process:
    """A Celery process; `log` is what it has said."""

    def __init__(self, log: Path, *arguments: str, **environ: str) -> None:
        self.path = log
        command = [sys.executable, "-m", "celery", "-A", "config", *arguments]
        with log.open("wb") as out:
            self.popen = subprocess.Popen(
                command, cwd=ROOT, stdout=out, stderr=out, env={**os.environ, **environ}
            )

    @property
    def log(self) -> str:
        return self.path.read_text()

    def children(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.popen.pid).children()]

    def kill(self) -> None:
        """End it at once, its children with it. How it stops in peace is a test of its own: Celery 5.7 may wait in vain
        for results that were on their way when it was asked to."""
        if self.popen.poll() is None:
            family = psutil.Process(self.popen.pid).children(recursive=True)
            self.popen.kill()
            self.popen.wait()
            psutil.wait_procs(family, timeout=60)


@pytest.fixture
def celery(transactional_db: None, tmp_path: Path, broker_url: str) -> Iterator[Any]:
    """Start Celery processes on the test's database: `with celery("worker", "--concurrency=1") as process`."""
    empty_broker(broker_url)

    @contextmanager
    def start(*arguments: str, **environ: str) -> Iterator[Process]:
        name = f"{arguments[0]}.{time.monotonic_ns()}.log"
        environ = {"MISTERSMITH_APPS": "tests.tasks.fleet", **environ}
        process = Process(tmp_path / name, *arguments, **environ)
        try:
            yield process
        except BaseException:
            print(process.log)  # noqa: T201  (pytest shows it with the failure)
            raise
        finally:
            process.kill()

    yield start
    empty_broker(broker_url)


@pytest.fixture
def worker(celery: Any) -> Iterator[Process]:
    """A worker of two processes that is ready to work."""
    with celery(
        "worker",
        "--concurrency=2",
        "--loglevel=INFO",
        "--without-gossip",
        "--without-mingle",
        MISTERSMITH_TASKS_LEASE_SECONDS="2",
        MISTERSMITH_TASKS_GRACE_SECONDS="1",
    ) as process:
        eventually(lambda: " ready." in process.log)
        yield process


def empty_broker(url: str) -> None:
    """Remove what is left of other tests in this worker's broker database."""
    import redis

    with redis.Redis.from_url(url) as broker:
        broker.flushdb()
