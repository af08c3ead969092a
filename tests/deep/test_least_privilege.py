"""A whole installation at work, each process with the role of its pool."""

import shutil
from contextlib import ExitStack

import pytest

from cockpit.servers import Running
from tests.conftest import SERVER_KINDS
from tests.faults.installation import BEAT, BRIDGE, PATIENCE_SECONDS, Installation
from tests.tasks.conftest import eventually

pytestmark = [pytest.mark.deep, pytest.mark.servers]
UPKEEP = (
    "-m",
    "celery",
    "-A",
    "config",
    "worker",
    "--concurrency=1",
    "--without-gossip",
    "--queues=mistersmith",
)
WORKER = ("-m", "celery", "-A", "config", "worker", "--concurrency=2", "--without-gossip", "--queues=tasks")
PROCESSES = {"bridge": BRIDGE, "worker": WORKER, "upkeep": UPKEEP, "beat": BEAT}
URLS = {"app_primary": "DATABASE_URL", "app_background": "BACKGROUND_DATABASE_URL", "app_replica": "REPLICA_URLS",
        "app_analytics": "ANALYTICS_DATABASE_URL"}  # fmt: skip


@pytest.fixture
def installation(make_home):
    with ExitStack() as stack:
        home = make_home()
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        servers = {name: stack.enter_context(Running(kind(home))) for name, kind in SERVER_KINDS.items()}
        made = Installation(home, servers)
        stack.callback(made.end)
        url = made.environ["DATABASE_URL"]
        own = url.rpartition("@")[2]
        made.environ |= {"OWNER_DATABASE_URL": url, "MISTERSMITH_HOME": str(home)}
        made.environ |= {variable: f"postgresql://{role}:secret@{own}" for role, variable in URLS.items()}
        yield made


def test_tasks_jobs_bridge_and_upkeep_do_their_work_with_least_privilege(installation):
    for command in (("prepare",), ("roles", "apply")):
        done = installation.manage(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing to do" in installation.manage("roles", "plan").stdout
    for name, command in PROCESSES.items():
        installation.start(name, *command)
    superuser = {**installation.environ, "DATABASE_URL": installation.environ["OWNER_DATABASE_URL"]}
    as_worker, installation.environ = installation.environ, superuser
    installation.enqueue(100)
    try:
        eventually(lambda: installation.is_done() and installation.is_in_step(), PATIENCE_SECONDS)
    except AssertionError:
        raise AssertionError(installation.tell()) from None
    installation.environ = as_worker
    assert (
        "nothing to do" in installation.manage("roles", "plan").stdout
    )  # leaves made meanwhile have their rights
    names = dict(installation.ask("SELECT application_name, min(usename) FROM pg_stat_activity GROUP BY 1"))
    assert names["mistersmith worker"] == "app_primary"
    assert names["mistersmith relay"] == "app_background"
    denied = [
        line
        for line in installation.tell().splitlines()
        if "permission denied" in line or "must be owner" in line
    ]
    assert denied == []
