"""Faults of the bridge that need no killed process: wrong clocks, replays, callbacks in the wrong order."""

import json
import threading

import pytest

from agents.models import Agent, AgentState, Heartbeat
from bridge import connection, setup, topology
from bridge.fastpath import push
from bridge.heartbeats import Heartbeats
from bridge.received import MessageReader
from bridge.relay import Memory, relay_batch
from bridge.session import open_session
from bridge.sources import note_epochs
from messaging.models import Message
from tests.bridge.conftest import (  # noqa: F401  (fixtures)
    agent,
    committed,
    empty_outbox,
    jetstream,
    rows,
    session,
    value,
    wait_until,
)
from tests.bridge.flushing import flush, state, write

pytestmark = pytest.mark.usefixtures("committed", "jetstream")
CLOCKS = ("1970-01-01T00:00:00Z", "2100-01-01T00:00:00Z")


def test_agents_clocks_at_1970_and_2100_change_nothing(agent, faults):  # noqa: F811
    other = Agent.objects.create(agent_type="writer", agent_name="w")
    parts = [MessageReader(), Heartbeats()]
    threads = [threading.Thread(target=part.run) for part in parts]
    for thread in threads:
        thread.start()
    wait_until(lambda: all(part.is_prepared for part in parts))
    for clock in CLOCKS:
        faults.happened("clock wrong")
        connection.call(lambda c, at=clock: send(c, agent, other, at))
    wait_until(lambda: Message.objects.count() == 2 and Heartbeat.objects.filter(agent=agent).exists())
    for part, thread in zip(parts, threads, strict=True):
        part.stop()
        thread.join(30)
    late = "SELECT count(*) FROM messages.log WHERE abs(extract(epoch FROM sent_at - now())) > 60"
    beats = (
        "SELECT count(*) FROM agents.heartbeats WHERE abs(extract(epoch FROM last_heartbeat - now())) > 60"
    )
    faults.did(messages=Message.objects.count(), heartbeats=Heartbeat.objects.count())
    faults.wrong(lost=2 - Message.objects.count(), misdated=rows(late)[0][0] + rows(beats)[0][0])
    rows("DELETE FROM messages.deliveries")
    rows("DELETE FROM messages.log")


async def send(client, sender, target, clock):
    body = json.dumps({"payload": clock, "sent_at": clock}).encode()
    headers = {"Sender-Time": clock}
    await client.jetstream.publish(f"messages.direct.{sender.pk}.{target.pk}", body, headers=headers)
    await client.nc.publish(f"agents.heartbeat.{sender.pk}", json.dumps({"sent_at": clock}).encode())


def test_a_stream_that_is_read_again_from_its_beginning_changes_nothing(agent, session, faults):  # noqa: F811
    """As after a lost consumer, or a retention that was longer than thought: rows changed, and deleted, meanwhile."""
    note_epochs(session, setup.read_found().created)
    for number in range(60):
        write("AGENT_STATE", f"{agent.pk}.k{number % 20}", number)
    for number in range(5):
        write("AGENT_STATE", f"{agent.pk}.k{number}", operation="DEL")
    flush(session)
    AgentState.objects.filter(state_key__in=["k18", "k19"]).delete()
    AgentState.objects.filter(state_key="k17").update(state_value="operator")
    while relay_batch(session, Memory()).read:
        pass
    before = state(agent)
    item = topology.consumers()["FLUSH_AGENT_STATE/flusher"]
    connection.call(lambda c: c.jetstream.delete_consumer(item.stream, item.name))
    connection.call(lambda c: c.jetstream.add_consumer(item.stream, item.config()))
    faults.happened("stream replayed")
    done = flush(session)
    after = state(agent)
    faults.did(messages=done.read, keys=len(before))
    faults.wrong(
        lost=len(before.keys() - after.keys()),
        revived=len(after.keys() - before.keys()),
        stale=sum(after[key] != before[key] for key in before.keys() & after.keys()),
    )


def test_commit_callbacks_in_reverse_order_end_at_the_newer_value(agent, faults, monkeypatch):  # noqa: F811
    """Two processes commit one after the other; the callback of the second runs first, that of the first last."""
    monkeypatch.setattr("bridge.fastpath.push", lambda *_: 0)
    AgentState.objects.create(agent=agent, state_key="a", state_value=0)
    stale = 0
    for number in range(1, 21):
        AgentState.objects.update(state_value=number * 2)
        AgentState.objects.update(state_value=number * 2 + 1)
        key = [("AGENT_STATE", f"{agent.pk}.a")]
        pushes = [threading.Thread(target=push_alone, args=(key,)) for _ in range(2)]
        pushes[1].start()
        pushes[1].join()
        pushes[0].start()
        pushes[0].join()
        faults.happened("callbacks reversed")
        stale += value("AGENT_STATE", f"{agent.pk}.a") != number * 2 + 1
        with open_session() as own:
            while relay_batch(own, Memory()).read:
                pass
        stale += value("AGENT_STATE", f"{agent.pk}.a") != number * 2 + 1
    faults.did(writes=40)
    faults.wrong(stale=stale)
    empty_outbox()


def push_alone(keys):
    from django.db import connections

    try:
        push("default", keys)
    finally:
        connections.close_all()
