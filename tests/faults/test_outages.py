"""A whole installation at work while its servers are killed: nothing is lost, nothing is done twice at once."""

import shutil

import pytest

from tests.faults.installation import PATIENCE_SECONDS, Installation
from tests.faults.ledger import Faults
from tests.tasks.conftest import eventually

pytestmark = pytest.mark.servers


@pytest.mark.parametrize("rounds", [1, pytest.param(8, id="8-rounds", marks=pytest.mark.deep)])
def test_killed_servers_cost_time_and_nothing_else(installation, faults, rounds):
    """PostgreSQL, nats-server and the broker are killed one after the other, each with work under way."""
    for name in ("postgres", "nats", "valkey") * rounds:
        work_while_it_dies(installation, faults, name)
    installation.count(faults)


def work_while_it_dies(installation: Installation, faults: Faults, name: str) -> None:
    """Enqueue 200 tasks: 100 before the kill, 50 while the server is away (PostgreSQL takes none then), 50 after."""
    server = installation.servers[name]
    enqueue_and_see_one_done(installation, 100)
    faults.kill(name, server)
    if name != "postgres":
        installation.enqueue(50)
    server.start()
    if name == "postgres":
        installation.enqueue(50)
    installation.enqueue(50)
    eventually(installation.is_done, PATIENCE_SECONDS)


@pytest.mark.parametrize("rounds", [1, pytest.param(8, id="8-rounds", marks=pytest.mark.deep)])
def test_a_broker_that_comes_back_empty_costs_tickets_and_no_task(installation, faults, rounds):
    """Its files are removed after the kill: what it knew of 200 tasks is gone, and the sweep makes up for it."""
    broker = installation.servers["valkey"]
    for _ in range(rounds):
        enqueue_and_see_one_done(installation, 200)
        faults.kill("valkey", broker)
        shutil.rmtree(broker.server.directory / "data" / "appendonlydir")
        faults.happened("broker's memory lost")
        broker.start()
        eventually(installation.is_done, PATIENCE_SECONDS)
    installation.count(faults)


def enqueue_and_see_one_done(installation: Installation, number: int) -> None:
    before = installation.completed()
    installation.enqueue(number)
    eventually(lambda: installation.completed() > before, PATIENCE_SECONDS)
