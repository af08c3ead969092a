"""What the bridge's tests look at: the outbox, and JetStream through the leader."""

import asyncio
import json
import shutil
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection as db
from django.db import transaction

from agents.models import Agent
from bridge import connection, setup, topology
from bridge.comparing import read_leader
from bridge.fastpath import breaker
from bridge.newest import make_last
from bridge.session import open_session
from tests.schema.catalog import ROOT

MODULES = ROOT / ".deep/npm"


@pytest.fixture
def committed(django_db_setup, django_db_blocker):
    """For tests that commit. What they wrote is deleted afterwards: quicker than another clone of the database."""
    with django_db_blocker.unblock():
        yield
        for table in WRITTEN:
            rows(f"DELETE FROM {table}")
        empty_outbox()
        forget_audit()
        rows("UPDATE bridge.sources SET kv_epoch = 0, flushed_sequence = 0")
        db.close()


def forget_audit() -> None:
    """Nothing but a superuser without triggers can: the audit is append-only."""
    with transaction.atomic():
        rows("SET LOCAL session_replication_role = replica")
        rows("DELETE FROM operators.audit")


WRITTEN = (
    "tasks.queue",
    "sessions.active",
    "agents.registry",
    "bridge.quarantine",
    "bridge.conflict",
    "bridge.conflict_rules",
    "bridge.dead_letters",
    "bridge.tombstones",
)


@pytest.fixture
def node() -> str:
    program = shutil.which("node")
    if program is None or not (MODULES / "node_modules/@nats-io/kv").is_dir():
        pytest.skip("no node, or its client is not in .deep/npm: make test-deep puts it there")
    return program


@pytest.fixture
def agent(request) -> Agent:
    request.getfixturevalue("committed" if "committed" in request.fixturenames else "db")
    return Agent.objects.create(agent_type="reader", agent_name="reader-1")


@pytest.fixture
def jetstream():
    """The declared buckets and streams on this worker's server, empty."""
    connection.close()
    breaker.reset()
    steps = setup.make_plan(setup.read_found())
    for step in steps:
        if step.action == "replace":  # a test before made its bucket anew
            connection.call(lambda c, name=step.object: c.jetstream.delete_stream(name))
    setup.apply_plan(steps, ("create", "update"))
    if steps:
        setup.apply_plan(setup.make_plan(setup.read_found()))
    connection.call(purge_all, 30)


async def purge_all(client):
    await asyncio.gather(*(client.jetstream.purge_stream(item.stream) for item in topology.declared()))


@pytest.fixture
def own_jetstream(restartable, settings):
    """A nats-server of this test's own, which it may kill; the link points to it."""
    running = restartable("nats")
    settings.NATS_URL = running.server.url()
    connection.close()
    breaker.reset()
    setup.apply_plan(setup.make_plan(setup.read_found()))
    yield running
    connection.close()


@pytest.fixture
def session(committed):
    """A session as the relay has one."""
    with open_session() as opened:
        yield opened


def rows(query: str, *params: Any) -> list[tuple[Any, ...]]:
    with db.cursor() as cursor:
        cursor.execute(query, params)
        return cursor.fetchall() if cursor.description else []


def outbox() -> list[tuple[str, str, str, Any]]:
    """(target, key, op, payload) of what waits, in order; two for a row that carries an event."""
    found = rows(
        "SELECT x.target, x.key, x.op, o.payload::text FROM bridge.outbox o CROSS JOIN LATERAL (VALUES"
        " (o.target, o.key, o.op::text), ('TASK_EXECUTION', o.event, 'E')) x (target, key, op)"
        " WHERE x.key IS NOT NULL ORDER BY o.outbox_id, x.op DESC"
    )
    return [(target, key, op, payload and json.loads(payload)) for target, key, op, payload in found]


def empty_outbox() -> None:
    rows("SELECT bridge.forget(array_agg(outbox_id)) FROM bridge.outbox")


def look(bucket: str, key: str) -> Any:
    """The newest message of a key, as its leader knows it; None: there is none."""
    return connection.call(lambda client: read_leader(client, bucket, [key]), 10).get(key)


def value(bucket: str, key: str) -> Any:
    """What the key holds; None: nothing."""
    last = look(bucket, key)
    return None if last is None or last.is_deleted else json.loads(last.data)


def put(bucket: str, key: str, data: Any) -> int:
    """Write as an agent would; return the revision."""
    text = json.dumps(data).encode()
    return connection.call(lambda c: c.jetstream.publish(f"$KV.{bucket}.{key}", text)).seq


def delete(bucket: str, key: str) -> None:
    """Delete as an agent would."""
    headers = {"KV-Operation": "DEL"}
    connection.call(lambda c: c.jetstream.publish(f"$KV.{bucket}.{key}", b"", headers=headers))


def history(stream: str, subject: str = ">") -> list[Any]:
    """Every message that a stream holds under a subject, oldest first."""

    async def read(client):
        info = await client.jetstream.stream_info(stream)
        found = []
        for number in range(info.state.first_seq, info.state.last_seq + 1):
            message = await client.jetstream.get_msg(stream, number)
            if subject in (">", message.subject):
                found.append(make_last(message.seq, message.headers or {}, message.data or b""))
        return found

    return connection.call(read, 30)


def wait_until(condition: Callable[[], Any], timeout_seconds: float = 60) -> Any:
    """Return what `condition` returns as soon as it is true; fail at the deadline."""
    deadline = time.monotonic() + timeout_seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"still not true after {timeout_seconds} s"
        time.sleep(0.01)
    return result
