"""Agents whose state and configuration only ever grow, who writes them, and what JetStream says of them."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from uuid import UUID

import psycopg

from tests.faults.installation import ROOT, Installation
from tests.faults.witness import Witness

AGENTS, SQL_WRITERS = 8, 2
RAISE_STATE = (
    "UPDATE agents.state SET state_value = to_jsonb((state_value #>> '{}')::int + 1)"
    " WHERE agent_id = %s AND state_key = 'n'"
)
RAISE_CONFIGURATION = (
    "UPDATE agents.registry SET configuration = jsonb_build_object('n', (configuration ->> 'n')::int + 1)"
    " WHERE agent_id = %s"
)
PRESENT = (
    "SELECT agent_id::text, (state_value #>> '{}')::int, (configuration ->> 'n')::int"
    " FROM agents.registry JOIN agents.state USING (agent_id) WHERE agent_type = 'fault'"
)
# saves as the admin and the commands do, so that the fast path publishes beside the relay
ORM_WRITER = """
import sys
import django
django.setup()
from django.db import transaction
from agents.models import AgentState
while True:
    for agent_id in sys.argv[1:]:
        with transaction.atomic():
            row = AgentState.objects.select_for_update().get(agent_id=agent_id, state_key="n")
            row.state_value += 1
            row.save(update_fields=["state_value"])
"""


def make_agents(installation: Installation) -> list[UUID]:
    made = installation.ask(
        "INSERT INTO agents.registry (agent_type, agent_name, configuration)"
        " SELECT 'fault', 'agent ' || n, '{\"n\": 0}' FROM generate_series(1, %s) n RETURNING agent_id",
        AGENTS,
    )
    agents = [row[0] for row in made]
    for agent_id in agents:
        installation.ask(
            "INSERT INTO agents.state (agent_id, state_key, state_value) VALUES (%s, 'n', '0')", agent_id
        )
    return agents


@contextmanager
def writers(installation: Installation, agents: list[UUID]) -> Iterator[None]:
    """Write until the block ends: threads by SQL, a process by the ORM, all on the same rows."""
    done = threading.Event()

    def write(first: int) -> None:
        with psycopg.connect(installation.environ["DATABASE_URL"], autocommit=True) as connection:
            while not done.is_set():
                for agent_id in agents[first:] + agents[:first]:
                    connection.execute(RAISE_STATE, [agent_id])
                    connection.execute(RAISE_CONFIGURATION, [agent_id])

    threads = [threading.Thread(target=write, args=[number]) for number in range(SQL_WRITERS)]
    argv = [sys.executable, "-c", ORM_WRITER, *map(str, agents)]
    environ = installation.environ | {"DJANGO_SETTINGS_MODULE": "config.settings"}
    with subprocess.Popen(argv, cwd=ROOT, env=environ) as process:
        for thread in threads:
            thread.start()
        try:
            yield
            assert process.poll() is None, "the writer that uses the ORM has ended"
        finally:
            done.set()
            process.kill()
            for thread in threads:
                thread.join()


# -- what is there ---------------------------------------------------------------------------------------
@contextmanager
def watch(installation: Installation) -> Iterator[tuple[Witness, Witness]]:
    url = installation.environ["NATS_URL"]
    with ExitStack() as stack:
        states = Witness(url, "AGENT_STATE", int)
        configurations = Witness(url, "AGENT_CONFIG", lambda value: value["configuration"].get("n", 0))
        yield stack.enter_context(states), stack.enter_context(configurations)


def seen(states: Witness, configurations: Witness) -> dict[str, tuple[int | None, int | None]]:
    """Return agent -> (state, configuration) as JetStream has them."""
    agents = [key.removesuffix(".n") for key in states.latest if key.endswith(".n")]
    return {agent: (states.latest.get(f"{agent}.n"), configurations.latest.get(agent)) for agent in agents}


def read_present(installation: Installation) -> dict[str, tuple[int, int]]:
    """Return agent -> (state, configuration) as PostgreSQL has them."""
    return {agent: (state, number) for agent, state, number in installation.ask(PRESENT)}


def total(installation: Installation) -> int:
    """Return how many writes were committed."""
    return sum(map(sum, read_present(installation).values()))
