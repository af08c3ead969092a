"""What `make up` runs loses its supervisor, or `up` itself, at work: everything ends, and goes on at the next start."""

import psutil
import psycopg
import pytest

from tests.cockpit.test_up import Home
from tests.faults.installation import ENQUEUE, PATIENCE_SECONDS, SUCCESSES
from tests.tasks.conftest import eventually

pytestmark = [pytest.mark.servers, pytest.mark.deep]
ROUNDS, TASKS = 1, 300
OPEN = "SELECT count(*) FILTER (WHERE status = 'completed'), count(*) FROM tasks.queue"


@pytest.fixture
def home(own_home):
    home = Home(own_home)
    yield home
    home.end()


def test_a_killed_supervisor_costs_time_and_nothing_else(home, faults):
    """Nothing of it is left running, so the next start finds its data free; what was accepted is done then."""
    home.start()
    for number in range(2 * ROUNDS):
        before = ask(home, OPEN)[0]
        ask(home, ENQUEUE, TASKS)
        eventually(lambda before=before: ask(home, OPEN)[0] > before, PATIENCE_SECONDS)
        processes, victim = home.processes(), ("supervisor", "up")[number % 2]
        if victim == "supervisor":
            faults.kill(victim, processes[0].pid)
        else:
            faults.kill(victim, home.up)
        home.up.communicate(timeout=PATIENCE_SECONDS)
        _, left = psutil.wait_procs(processes, timeout=PATIENCE_SECONDS)
        faults.wrong(processes_left=sum(process.status() != psutil.STATUS_ZOMBIE for process in left))
        home.start()
    eventually(lambda: is_done(home), PATIENCE_SECONDS)
    completed, _ = ask(home, OPEN)
    successes, tasks = ask(home, SUCCESSES)
    faults.did(tasks=completed)
    faults.wrong(tasks_lost=2 * ROUNDS * TASKS - completed, tasks_doubled=successes - tasks)
    eventually(lambda: home.answer("bridge", "reconcile", "--dry-run")["ok"], PATIENCE_SECONDS)


def is_done(home):
    completed, accepted = ask(home, OPEN)
    return completed == accepted


def ask(home, query, *parameters):
    """Return the first row, if the statement has one."""
    with psycopg.connect(home.url(), autocommit=True) as connection:
        answer = connection.execute(query, parameters)
        return answer.fetchone() if answer.description else None
