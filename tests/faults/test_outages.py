"""A whole installation at work while its servers are killed: nothing is lost, nothing is done twice at once.

Every process is real and on servers of this test's own; what dies is named by the test, and what was done is counted.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from cockpit.servers import Running
from tests.tasks.conftest import eventually

pytestmark = pytest.mark.servers
ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60
INSERT = (
    "INSERT INTO tasks.queue (task_type, payload)"
    " SELECT 'echo', to_jsonb(n) FROM generate_series(%s::int, %s::int) n"
)


class Installation:
    """Three servers, the relay, a worker and beat."""

    def __init__(self, folder: Path, servers: dict[str, Running]) -> None:
        self.folder, self.servers = folder, servers
        self.environ = {
            **os.environ,
            "DATABASE_URL": servers["postgres"].server.url(),
            "NATS_URL": servers["nats"].server.url(),
            "CELERY_BROKER_URL": servers["valkey"].server.url(),
            "MISTERSMITH_TASKS_LEASE_SECONDS": "3",
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "manage.py", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self.environ, capture_output=True, text=True, check=False
        )

    def start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, env=self.environ, stdout=log, stderr=log
            )

    def end(self) -> None:
        for process in self.processes.values():
            family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.kill()
            process.wait()
            for member in family:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
            psutil.wait_procs(family, timeout=10)

    def ask(self, query: str, *parameters: object) -> list[tuple[object, ...]]:
        with psycopg.connect(self.environ["DATABASE_URL"], autocommit=True, connect_timeout=5) as connection:
            answer = connection.execute(query, parameters)
            return answer.fetchall() if answer.description else []

    def completed(self) -> int:
        """Return how many tasks are completed; 0 while PostgreSQL is away."""
        with suppress(psycopg.OperationalError):
            return int(str(self.ask("SELECT count(*) FROM tasks.queue WHERE status = 'completed'")[0][0]))
        return 0

    def differences(self) -> dict[str, int]:
        """Return what reconcile counts; empty while a server is away."""
        answer = self.manage("bridge", "reconcile", "--dry-run", "--json").stdout
        return json.loads(answer)["counts"] if answer else {}

    def is_in_step(self) -> bool:
        counts = self.differences()
        wrong = ("missing", "stale", "extra", "in_flight", "expired")
        return bool(counts) and not any(counts[name] for name in wrong)


@pytest.fixture
def installation(restartable, tmp_path) -> Iterator[Installation]:
    with ExitStack() as stack:
        made = Installation(tmp_path, {name: restartable(name) for name in ("postgres", "nats", "valkey")})
        stack.callback(made.end)
        prepared = made.manage("prepare")
        assert prepared.returncode == 0, prepared.stderr
        made.start("bridge", "manage.py", "bridge", "run")
        made.start("worker", "-m", "celery", "-A", "config", "worker", "--concurrency=2", "--without-gossip")
        made.start("beat", "-m", "celery", "-A", "config", "beat")
        made.ask(INSERT, 1, 1)
        eventually(lambda: made.completed() == 1, PATIENCE_SECONDS)
        yield made


def test_killed_servers_cost_time_and_nothing_else(installation):
    """PostgreSQL, nats-server and the broker are killed one after the other, each with work under way."""
    for number, name in enumerate(("postgres", "nats", "valkey")):
        work_while_it_dies(installation, name, first=2 + number * 200)

    runs = "SELECT count(*), count(DISTINCT task_id) FROM tasks.executions WHERE status = 'completed'"
    assert installation.ask(runs) == [(601, 601)], "a task has one successful execution"
    eventually(installation.is_in_step, PATIENCE_SECONDS)
    assert installation.differences()["compared"] >= 601
    ended = [name for name, process in installation.processes.items() if process.poll() is not None]
    assert not ended, "a process of ours did not outlive the outage"


def work_while_it_dies(installation: Installation, name: str, first: int) -> None:
    """Enqueue 200 tasks: 100 before the kill, 50 while the server is away (PostgreSQL takes none then), 50 after."""
    server, before = installation.servers[name], installation.completed()
    installation.ask(INSERT, first, first + 99)
    eventually(lambda: installation.completed() > before, PATIENCE_SECONDS)
    server.kill()
    if name != "postgres":
        installation.ask(INSERT, first + 100, first + 149)
    server.start()
    if name == "postgres":
        installation.ask(INSERT, first + 100, first + 149)
    installation.ask(INSERT, first + 150, first + 199)
    eventually(lambda: installation.completed() == before + 200, PATIENCE_SECONDS)
