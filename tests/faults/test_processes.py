"""Our processes are killed by their pids while they work: no write, no task is lost, nothing is done twice at once."""

import random
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.faults.installation import BRIDGE, PATIENCE_SECONDS, WORKER, Installation
from tests.faults.ledger import Faults
from tests.faults.writers import make_agents, read_present, seen, total, watch, writers
from tests.marks import LATER
from tests.tasks.conftest import eventually

pytestmark = pytest.mark.servers
LEADERS_PORT = (
    "SELECT client_port FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' AND granted"
    " AND mode = 'ExclusiveLock' AND objid::bigint = hashtext('relay')::bigint & 4294967295"
)
LONGER_THAN_A_LEASE_SECONDS = 4
ENQUEUE = (
    "INSERT INTO tasks.queue (task_type, max_retries, payload)"
    " SELECT 'faults.alone', 100, jsonb_build_object('dir', %s::text, 'seconds', %s::float)"
    " FROM generate_series(1, %s)"
)
ATTEMPTS = (
    "SELECT count(*) FILTER (WHERE e.status = 'completed' AND e.execution_attempt <> t.attempt),"
    " count(*) FILTER (WHERE e.status NOT IN ('completed', 'failed'))"
    " FROM tasks.executions e JOIN tasks.queue t USING (task_id) WHERE t.task_type = 'faults.alone'"
)


# -- the relay ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "kills", [pytest.param(3, marks=LATER), pytest.param(40, id="40-kills", marks=pytest.mark.deep)]
)
def test_a_killed_relay_loses_no_write_and_lets_no_older_value_win(installation, faults, kills):
    """Two relays, one leads; writers raise numbers by SQL and by the ORM; a witness reads what JetStream stores."""
    agents = make_agents(installation)
    installation.start("bridge-2", *BRIDGE)
    moments = random.Random(kills)
    with watch(installation) as witnesses:
        with writers(installation, agents):
            for _ in range(kills):
                kill_leader_at_work(installation, faults, writes=moments.randrange(1, 120))
        present = read_present(installation)
        with suppress(AssertionError):  # what has not come by then is counted
            eventually(lambda: seen(*witnesses) == present, PATIENCE_SECONDS)
    found = seen(*witnesses)
    faults.did(writes=total(installation), values_seen=sum(witness.seen for witness in witnesses))
    faults.wrong(
        values_lost=sum(found.get(agent) != value for agent, value in present.items()),
        older_values_won=sum(witness.older for witness in witnesses),
    )
    installation.enqueue(1)
    installation.count(faults)
    installation.end("bridge-2")


def kill_leader_at_work(installation: Installation, faults: Faults, writes: int) -> None:
    """Kill the relay that leads after so many more writes, with some in the outbox; start it again, to stand by."""
    name, target = eventually(lambda: leader(installation), PATIENCE_SECONDS), total(installation) + writes
    eventually(lambda: total(installation) >= target and has_outbox_rows(installation), PATIENCE_SECONDS)
    faults.kill("relay", installation.processes[name])
    installation.start(name, *BRIDGE)


def leader(installation: Installation) -> str:
    """Return the name of the bridge whose session holds the lead; "" while none of ours does."""
    ports = {port for (port,) in installation.ask(LEADERS_PORT)}
    bridges = [name for name in installation.processes if name.startswith("bridge")]
    return next((name for name in bridges if ports & installation.ports(name)), "")


def has_outbox_rows(installation: Installation) -> bool:
    return bool(installation.ask("SELECT 1 FROM bridge.outbox LIMIT 1"))


# -- workers ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "kills", [pytest.param(3, marks=LATER), pytest.param(60, id="60-kills", marks=pytest.mark.deep)]
)
def test_killed_workers_cost_attempts_and_no_task(installation, faults, tmp_path, kills):
    """Two workers of two processes. Each kill is in mid-task, of the process or its worker; a few tasks are long."""
    choices = random.Random(kills)
    installation.start("worker-2", *WORKER, "--hostname=second@%h")
    for number in range(kills):
        long_ones = int(number % 10 == 9)
        installation.enqueue(long_ones, ENQUEUE, str(tmp_path), LONGER_THAN_A_LEASE_SECONDS)
        child = eventually(lambda: find_at_work(installation, tmp_path, choices), PATIENCE_SECONDS)
        if number % 3 == 2:
            kill_whole_worker(installation, faults, child)
        else:
            faults.kill("worker process in mid-task", child.pid)
    eventually(installation.is_done, PATIENCE_SECONDS)
    ((late_writers, unfinished),) = installation.ask(ATTEMPTS)
    faults.wrong(
        run_twice_at_once=len(list(tmp_path.glob("*.doubled"))),
        successes_of_an_older_attempt=late_writers,
        executions_left_open=unfinished,
    )
    installation.count(faults)
    installation.end("worker-2")


def kill_whole_worker(installation: Installation, faults: Faults, child: psutil.Process) -> None:
    """Kill the worker of a process that is in mid-task, and start it again. The process itself may finish its task."""
    (name,) = (name for name, process in installation.processes.items() if process.pid == child.ppid())
    faults.kill("worker in mid-task", installation.processes[name])
    installation.start(name, *WORKER, f"--hostname={name}@%h")


def find_at_work(installation: Installation, place: Path, choices: random.Random) -> psutil.Process | None:
    """Return a process that runs a task now and whose worker lives; None: look again, there is work for somebody."""
    running = sorted(place.glob("*.running"))
    choices.shuffle(running)
    for path in running:
        try:
            process = psutil.Process(int(path.read_text()))
            if process.ppid() > 1:
                return process
        except (OSError, ValueError, psutil.NoSuchProcess):
            path.unlink(missing_ok=True)  # it has ended meanwhile, or was killed
    if installation.is_done():
        installation.enqueue(10, ENQUEUE, str(place), 0.1)
    return None
