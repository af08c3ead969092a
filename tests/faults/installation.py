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
from tests.tasks.conftest import eventually

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60
ENQUEUE = "INSERT INTO tasks.queue (task_type) SELECT 'echo' FROM generate_series(1, %s)"
SUCCESSES = "SELECT count(*), count(DISTINCT task_id) FROM tasks.executions WHERE status = 'completed'"
BRIDGE = ("manage.py", "bridge", "run")
WORKER = ("-m", "celery", "-A", "config", "worker", "--concurrency=2", "--without-gossip")
BEAT = ("-m", "celery", "-A", "config", "beat")


class Installation:
    """Three servers, the bridge, a worker and beat. `accepted` is how many tasks PostgreSQL has taken.

    `code` is the checkout whose processes are started; it may change while others run.
    """

    def __init__(self, folder: Path, servers: dict[str, Running], code: Path = ROOT) -> None:
        self.folder, self.servers, self.code = folder, servers, code
        self.environ = {
            **os.environ,
            "DATABASE_URL": servers["postgres"].server.url(),
            "NATS_URL": servers["nats"].server.url(),
            "CELERY_BROKER_URL": servers["valkey"].server.url(),
            "MISTERSMITH_TASKS_LEASE_SECONDS": "3",
            "MISTERSMITH_APPS": "tests.faults.fleet",
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.accepted = self.counted = 0

    # -- processes ------------------------------------------------------------------------------------------
    def begin(self) -> None:
        """Migrate, start everything, and wait until a first task is done."""
        prepared = self.manage("prepare")
        assert prepared.returncode == 0, prepared.stderr
        for name, command in (("bridge", BRIDGE), ("worker", WORKER), ("beat", BEAT)):
            self.start(name, *command)
        self.enqueue(1)
        eventually(self.is_done, PATIENCE_SECONDS)

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "manage.py", *arguments]
        return subprocess.run(
            command, cwd=self.code, env=self.environ, capture_output=True, text=True, check=False
        )

    def start(self, name: str, *command: str) -> None:
        """Start a process of ours; what it says goes to `<name>.log`."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *command], cwd=self.code, env=self.environ, stdout=log, stderr=log
            )

    def end(self, *names: str) -> None:
        """End these processes and their children at once; all of them when none is named."""
        for name in names or list(self.processes):
            process = self.processes.pop(name)
            family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.kill()
            process.wait()
            for member in family:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
            psutil.wait_procs(family, timeout=10)

    def ended(self) -> list[str]:
        """Return the names of the processes that have ended by themselves."""
        return [name for name, process in self.processes.items() if process.poll() is not None]

    def ports(self, name: str) -> set[int]:
        """Return the local TCP ports of a process and its children; none when it has ended."""
        with suppress(psutil.NoSuchProcess):
            main = psutil.Process(self.processes[name].pid)
            family = (main, *main.children(recursive=True))
            return {used.laddr.port for process in family for used in process.net_connections("tcp")}
        return set()

    # -- work -----------------------------------------------------------------------------------------------
    def ask(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.environ["DATABASE_URL"], autocommit=True, connect_timeout=5) as connection:
            answer = connection.execute(query, parameters)
            return answer.fetchall() if answer.description else []

    def enqueue(self, number: int, statement: str = ENQUEUE, *parameters: object) -> None:
        """Have that many tasks accepted; `statement` inserts them, its last parameter is their number."""
        self.ask(statement, *parameters, number)
        self.accepted += number

    def completed(self) -> int:
        """Return how many tasks are completed; 0 while PostgreSQL is away."""
        with suppress(psycopg.OperationalError):
            return int(self.ask("SELECT count(*) FROM tasks.queue WHERE status = 'completed'")[0][0])
        return 0

    def is_done(self) -> bool:
        return self.completed() == self.accepted

    def tell(self) -> str:
        """Return what the tasks and the processes say, for whoever reads that a test has failed."""
        told = [f"accepted: {self.accepted}"]
        with suppress(psycopg.OperationalError):
            told += map(
                str, self.ask("SELECT status, status_reason, count(*) FROM tasks.queue GROUP BY 1, 2")
            )
        logs = (*self.folder.glob("*.log"), *self.folder.glob("log/*.log"))
        return "\n".join(told + [f"== {log.name}\n{log.read_text()[-3000:]}" for log in logs])

    # -- what came of it --------------------------------------------------------------------------------------
    def count(self, faults: Faults) -> None:
        """Count what came of the tasks accepted since the last count, and of all copies in JetStream."""
        with suppress(AssertionError):  # what is not right by then is counted
            eventually(lambda: self.is_done() and self.is_in_step(), PATIENCE_SECONDS)
        ((successes, tasks),), found = self.ask(SUCCESSES), self.differences()
        faults.did(tasks=self.accepted - self.counted, copies_compared=found["compared"])
        completed = self.completed()
        faults.wrong(tasks_lost=self.accepted - completed, tasks_doubled=successes - tasks)
        faults.wrong(results_lost=completed - tasks)
        faults.wrong(
            copies_missing=found["missing"], copies_stale=found["stale"], copies_extra=found["extra"]
        )
        faults.wrong(processes_ended=len(self.ended()))
        self.counted = self.accepted

    def differences(self) -> dict[str, int]:
        """Return what reconcile counts; empty while a server is away."""
        answer = self.manage("bridge", "reconcile", "--dry-run", "--json").stdout
        return json.loads(answer)["counts"] if answer else {}

    def is_in_step(self) -> bool:
        counts = self.differences()
        wrong = ("missing", "stale", "extra", "in_flight", "expired")
        return bool(counts) and not any(counts[name] for name in wrong)
