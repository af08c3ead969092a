"""What the parts share: agents' rows, the bridge as a process, and when a key was stored in KV."""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
from nats.js.errors import NotFoundError

from bench.frame.servers import Installation
from bench.storage.sql import add_agents, without_triggers
from bench.task_peers.processes import running, wait_for
from bridge.connection import Client, call
from bridge.fence import has_leader
from bridge.newest import MULTI_GET, chunks, direct_get

BUCKET = "AGENT_STATE"
STREAM = f"KV_{BUCKET}"
VALUE = {"text": "x" * 160, "n": 0}
DRAIN_SECONDS = 180


def connect(found: Installation) -> psycopg.Connection[Any]:
    return psycopg.connect(found.dsn, autocommit=True)


def clear(found: Installation) -> None:
    """Begin anew: no agents, nothing on its way, empty streams."""
    wait_until_copied()
    with connect(found) as session:
        session.execute("SET bridge.allow_truncate = 'on'")
        session.execute("TRUNCATE agents.registry, agents.state, bridge.outbox, bridge.tombstones CASCADE")
        session.execute("VACUUM ANALYZE agents.state, bridge.outbox")
    for name in (STREAM, f"FLUSH_{BUCKET}", "AGENT_STATE"):
        call(lambda client, name=name: client.jetstream.purge_stream(name), 60)  # type: ignore[misc]


def wait_until_copied() -> None:
    """Wait until the FLUSH stream has all that its bucket stored: nats-server copies what comes in batches more slowly
    than it takes it, and what came after the purge would be counted as new."""
    subject = f"$KV.{BUCKET}.{uuid4()}.last"
    call(lambda client: client.jetstream.publish(subject, b"1", timeout=10), 20)

    async def is_there(client: Client) -> bool:
        with suppress(NotFoundError):
            return bool(await client.jetstream.get_last_msg(f"FLUSH_{BUCKET}", subject))
        return False

    wait_for(lambda: call(is_there), 60)


def make_rows(found: Installation, agents: int, keys: int) -> list[tuple[UUID, str]]:
    """Make so many agents with so many keys each, of which nobody is told; return (agent, key) of all."""
    with connect(found) as session:
        ids = add_agents(session, agents)
        with without_triggers(session):
            session.execute(
                "INSERT INTO agents.state (agent_id, state_key, state_value)"
                " SELECT a, 'key.' || n, %s::jsonb FROM unnest(%s::uuid[]) a, generate_series(1, %s) n",
                [json.dumps(VALUE), ids, keys],
            )
        session.execute("DELETE FROM bridge.outbox")
        session.execute("ANALYZE agents.state")
    return [(agent, f"key.{n}") for agent in ids for n in range(1, keys + 1)]


def subject_of(agent: UUID, key: str) -> str:
    return f"$KV.{BUCKET}.{agent}.{key}"


@contextmanager
def bridge_running(found: Installation, name: str = "bridge") -> Iterator[Any]:
    """`manage.py bridge run`, from the moment that a relay leads; gives the process."""
    with running(found.home / f"{name}.log", "manage.py", "bridge", "run") as process:
        wait_for(leads, 60)
        yield process


def leads() -> bool:
    from django.db import connection

    return has_leader(connection)


def drain(found: Installation) -> None:
    """Wait until the relay has brought everything."""
    with connect(found) as session:
        query = "SELECT NOT EXISTS (SELECT FROM bridge.outbox)"
        wait_for(lambda: bool(session.execute(query).fetchone()[0]), DRAIN_SECONDS)  # type: ignore[index]


def stored_times(subjects: Iterable[str]) -> dict[str, float]:
    """Return when each subject's newest message was stored, in seconds since 1970 by nats-server's clock (ours)."""
    found: dict[str, float] = {}
    for some in chunks(list(subjects), MULTI_GET):
        found |= call(lambda client, some=some: read_times(client, some), 30)  # type: ignore[misc]
    return found


async def read_times(client: Client, subjects: Sequence[str]) -> dict[str, float]:
    messages, _ = await direct_get(client.nc, STREAM, {"multi_last": list(subjects), "batch": MULTI_GET}, 10)
    return {
        message.headers["Nats-Subject"]: datetime.fromisoformat(
            message.headers["Nats-Time-Stamp"]
        ).timestamp()
        for message in messages
    }


def wait_for_keys(subjects: Sequence[str], seconds: float = 60) -> dict[str, float]:
    """Wait until every subject has a message; return when each was stored."""
    wait_for(lambda: len(stored_times(subjects)) == len(subjects), seconds)
    return stored_times(subjects)


def timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
