"""A whole installation at work while its servers are killed: nothing is lost, nothing is done twice at once."""

import pytest

from tests.faults.installation import INSERT, PATIENCE_SECONDS, Installation
from tests.faults.ledger import Faults
from tests.tasks.conftest import eventually

pytestmark = pytest.mark.servers


def test_killed_servers_cost_time_and_nothing_else(installation, faults):
    """PostgreSQL, nats-server and the broker are killed one after the other, each with work under way."""
    for number, name in enumerate(("postgres", "nats", "valkey")):
        work_while_it_dies(installation, faults, name, first=2 + number * 200)

    eventually(installation.is_in_step, PATIENCE_SECONDS)
    installation.count(faults, tasks=601)
    assert installation.differences()["compared"] >= 601
    assert not installation.ended(), "a process of ours did not outlive the outage"


def work_while_it_dies(installation: Installation, faults: Faults, name: str, first: int) -> None:
    """Enqueue 200 tasks: 100 before the kill, 50 while the server is away (PostgreSQL takes none then), 50 after."""
    server, before = installation.servers[name], installation.completed()
    installation.ask(INSERT, first, first + 99)
    eventually(lambda: installation.completed() > before, PATIENCE_SECONDS)
    faults.kill(name, server)
    if name != "postgres":
        installation.ask(INSERT, first + 100, first + 149)
    server.start()
    if name == "postgres":
        installation.ask(INSERT, first + 100, first + 149)
    installation.ask(INSERT, first + 150, first + 199)
    eventually(lambda: installation.completed() == before + 200, PATIENCE_SECONDS)
