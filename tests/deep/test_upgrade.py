"""docs/upgrade.md as a test: the new release is prepared while the processes of the one before work, then takes over.

At each release: set PREVIOUS to the commit of the release before it, the one that users upgrade from.
"""

import io
import signal
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from tests.faults.installation import BEAT, BRIDGE, ENQUEUE, PATIENCE_SECONDS, WORKER, Installation
from tests.marks import LATER
from tests.tasks.conftest import eventually
from tests.versions import ROOT

pytestmark = [pytest.mark.servers, *LATER]
PREVIOUS = "15f57f90bd36"  # 0.1.0 before its first upgrade
PREPARE_TRIES = 5  # a migration that does not get its lock is undone and run again, as the page says
STOP_SECONDS = 20  # as supervisord: Celery's warm shutdown may hang
STATE = "INSERT INTO agents.state (agent_id, state_key, state_value) VALUES (%s, 'n', '0')"
RAISE_STATE = (
    "UPDATE agents.state SET state_value = to_jsonb((state_value #>> '{}')::int + 1) WHERE agent_id = %s"
)
UNKNOWN_JOB = "Received unregistered task of type"
# tasks with another number of completed attempts than one, and what they have
ODD_ATTEMPTS = """
SELECT q.task_id::text, q.attempt, q.retry_count, q.started_at::text, q.completed_at::text,
       json_agg(json_build_array(e.execution_id, e.execution_attempt, e.status, e.started_at, e.completed_at,
                                 e.error_message))
FROM tasks.queue q LEFT JOIN tasks.executions e ON e.task_id = q.task_id
GROUP BY q.task_id, q.task_type HAVING count(*) FILTER (WHERE e.status = 'completed') <> 1
"""
NOT_COMPLETED = (
    "SELECT status, status_reason, count(*) FROM tasks.queue WHERE status <> 'completed' GROUP BY 1, 2"
)


@pytest.fixture
def old_code(tmp_path):
    """The tree of the previous release; it runs in this environment."""
    argv = ["git", "-C", str(ROOT), "archive", PREVIOUS]
    done = subprocess.run(argv, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no history: commit {PREVIOUS} is not in this clone")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(tmp_path / "old", filter="data")
    return tmp_path / "old"


@pytest.fixture
def installation(restartable, own_home, old_code):
    servers = {name: restartable(name) for name in ("postgres", "nats", "valkey")}
    made = Installation(own_home, servers, old_code)
    made.environ |= {"MISTERSMITH_HOME": str(own_home), "MISTERSMITH_APPS": ""}
    try:
        made.begin()
        yield made
    finally:
        print(made.tell())  # noqa: T201  (pytest shows it with a failure)
        made.end()


def test_a_release_is_prepared_beside_the_previous_one_and_takes_over(installation):
    with work_going_on(installation):
        installation.code = ROOT
        applied = prepare(installation)
        see_more_done(installation, "the old processes work on the new schema")
        assert not installation.ended()
        for name, command in (("worker", WORKER), ("bridge", BRIDGE), ("beat", BEAT)):
            replace(installation, name, *command)
            see_more_done(installation, f"the new {name} works beside the rest")
    eventually(installation.is_done, PATIENCE_SECONDS)
    assert installation.ask(NOT_COMPLETED) == []
    assert installation.ask(ODD_ATTEMPTS) == []
    eventually(installation.is_in_step, PATIENCE_SECONDS)
    assert not installation.ended()
    logs = read_logs(installation)
    # the old beat sends jobs that only the new release has: an old worker says so once each, and lets them go
    assert logs.count("Traceback") == logs.count(UNKNOWN_JOB), applied


def prepare(installation: Installation) -> str:
    """Run the new release's `prepare` as the page says; return what it said."""
    for _ in range(PREPARE_TRIES):
        done = installation.manage("prepare")
        if done.returncode == 0:
            return done.stderr
        assert "run `manage.py prepare` again" in done.stderr, done.stderr
    raise AssertionError(done.stderr)


@contextmanager
def work_going_on(installation: Installation) -> Iterator[None]:
    """Enqueue tasks and raise an agent's state in a thread until the block ends; no write may be refused."""
    ((agent_id,),) = installation.ask(
        "INSERT INTO agents.registry (agent_type, agent_name) VALUES ('upgrade', 'ann') RETURNING agent_id"
    )
    installation.ask(STATE, agent_id)
    done, errors = threading.Event(), []

    def write() -> None:
        try:
            with psycopg.connect(installation.environ["DATABASE_URL"], autocommit=True) as connection:
                while not done.wait(0.05):
                    connection.execute(ENQUEUE, [5])
                    installation.accepted += 5
                    connection.execute(RAISE_STATE, [agent_id])
        except psycopg.Error as error:
            errors.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        done.set()
        writer.join()
    assert errors == [], "a client of the old release was refused"


def see_more_done(installation: Installation, what: str) -> None:
    target = installation.completed() + 50
    with suppress(AssertionError):
        eventually(lambda: installation.completed() >= target, PATIENCE_SECONDS)
    assert installation.completed() >= target, what


def replace(installation: Installation, name: str, *command: str) -> None:
    """Restart a process with the new code as systemd does: SIGTERM, and -9 when it takes too long."""
    old = installation.processes[name]
    old.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        old.wait(STOP_SECONDS)
    installation.end(name)
    installation.start(name, *command)


def read_logs(installation: Installation) -> str:
    return "\n".join(path.read_text() for path in Path(installation.folder).glob("*.log"))
