"""The demo through real Celery worker processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from demo.fleet import gather_fleet
from demo.run import start_plan
from demo.status import list_agents, read_progress
from knowledge.search import search_text
from tasks.models import Execution, Task
from tasks.sweep import promote_due, send_tickets

ROOT = Path(__file__).parents[2]
COMMAND = [
    "-m",
    "celery",
    "-A",
    "config",
    "worker",
    "--concurrency=2",
    "--without-gossip",
    "--without-mingle",
]


@pytest.fixture
def workers(transactional_db, broker_url, tmp_path):
    import redis

    with redis.Redis.from_url(broker_url) as broker:
        broker.flushdb()
        log = tmp_path / "worker.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, *COMMAND], cwd=ROOT, env=dict(os.environ), stdout=out, stderr=out
            )
            try:
                yield process
            finally:
                print(log.read_text())  # noqa: T201  (pytest shows it with a failure)
                process.send_signal(signal.SIGTERM)
                process.wait(30)
        broker.flushdb()


@pytest.mark.servers
@pytest.mark.deep
@pytest.mark.ci
def test_two_worker_processes_read_five_modules_and_fail_at_one(workers):
    start_plan(gather_fleet(), modules=["argparse", "getopt", "optparse", "cmd", "demo_poisoned"])
    deadline = time.monotonic() + 60
    while not (progress := read_progress()).is_done:
        assert workers.poll() is None
        assert time.monotonic() < deadline, progress
        promote_due()  # beat's part: retries whose time has come
        send_tickets()
        time.sleep(0.2)
    assert (progress.completed, progress.failed) == (5, 1)
    poisoned = Task.objects.get(payload__module="demo_poisoned")
    assert Execution.objects.filter(task_id=poisoned.pk, status="failed").count() == 3
    assert search_text("command line options")[0].entity_id.startswith("argparse")
    assert sum(agent["modules_read"] or 0 for agent in list_agents()) == 4
