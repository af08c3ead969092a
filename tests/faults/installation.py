"""A whole installation on servers of a test's own: what a fault test breaks."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg

from cockpit.servers import Running
from tests.faults.ledger import Faults

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

    def ask(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.environ["DATABASE_URL"], autocommit=True, connect_timeout=5) as connection:
            answer = connection.execute(query, parameters)
            return answer.fetchall() if answer.description else []

    def completed(self) -> int:
        """Return how many tasks are completed; 0 while PostgreSQL is away."""
        with suppress(psycopg.OperationalError):
            return int(self.ask("SELECT count(*) FROM tasks.queue WHERE status = 'completed'")[0][0])
        return 0

    def count(self, faults: Faults, tasks: int) -> None:
        """Add what came of `tasks` tasks, and of the copies of their rows in JetStream."""
        runs = "SELECT count(*), count(DISTINCT task_id) FROM tasks.executions WHERE status = 'completed'"
        ((successes, different),) = self.ask(runs)
        found = self.differences()
        faults.did(tasks=self.completed(), copies_compared=found["compared"])
        faults.wrong(tasks_lost=tasks - self.completed(), tasks_doubled=int(successes) - int(different))
        faults.wrong(
            copies_missing=found["missing"], copies_stale=found["stale"], copies_extra=found["extra"]
        )

    def ended(self) -> list[str]:
        """Return the names of the processes that have ended by themselves."""
        return [name for name, process in self.processes.items() if process.poll() is not None]

    def differences(self) -> dict[str, int]:
        """Return what reconcile counts; empty while a server is away."""
        answer = self.manage("bridge", "reconcile", "--dry-run", "--json").stdout
        return json.loads(answer)["counts"] if answer else {}

    def is_in_step(self) -> bool:
        counts = self.differences()
        wrong = ("missing", "stale", "extra", "in_flight", "expired")
        return bool(counts) and not any(counts[name] for name in wrong)
