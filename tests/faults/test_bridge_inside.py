"""Faults of the bridge that need no killed process: wrong clocks, replays, callbacks in the wrong order."""

import json
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from agents.models import Agent, AgentState, Heartbeat
from bridge import connection, setup, topology
from bridge.heartbeats import Heartbeats
from bridge.received import MessageReader
from bridge.reconcile import reconcile
from bridge.relay import Memory, relay_batch
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
from tests.faults.bridging import live_for

pytestmark = pytest.mark.usefixtures("committed", "jetstream")
ROOT = Path(__file__).parents[2]
CLOCKS = ("1970-01-01T00:00:00Z", "2100-01-01T00:00:00Z")


LONG = pytest.param(60, id="60-s", marks=pytest.mark.deep)
once_and_long = pytest.mark.parametrize("seconds", [pytest.param(0, id="once"), LONG])


@once_and_long
def test_agents_clocks_at_1970_and_2100_change_nothing(agent, faults, seconds):  # noqa: F811
    other = Agent.objects.create(agent_type="writer", agent_name="w")
    parts, sent = [MessageReader(), Heartbeats()], 0
    threads = [threading.Thread(target=part.run) for part in parts]
    for thread in threads:
        thread.start()
    wait_until(lambda: all(part.is_prepared for part in parts))
    for _ in live_for(seconds):
        for clock in CLOCKS:
            faults.happened("clock wrong")
            connection.call(lambda c, at=clock: send(c, agent, other, at))
            sent += 1
        wait_until(lambda number=sent: Message.objects.count() == number)
    wait_until(lambda: Heartbeat.objects.filter(agent=agent).exists())
    for part, thread in zip(parts, threads, strict=True):
        part.stop()
        thread.join(30)
    late = "SELECT count(*) FROM messages.log WHERE abs(extract(epoch FROM sent_at - now())) > 300"
    beats = (
        "SELECT count(*) FROM agents.heartbeats WHERE abs(extract(epoch FROM last_heartbeat - now())) > 300"
    )
    faults.did(messages=Message.objects.count(), heartbeats=Heartbeat.objects.count())
    faults.wrong(lost=sent - Message.objects.count(), misdated=rows(late)[0][0] + rows(beats)[0][0])
    rows("DELETE FROM messages.deliveries")
    rows("DELETE FROM messages.log")


async def send(client, sender, target, clock):
    body = json.dumps({"payload": clock, "sent_at": clock}).encode()
    headers = {"Sender-Time": clock}
    await client.jetstream.publish(f"messages.direct.{sender.pk}.{target.pk}", body, headers=headers)
    await client.nc.publish(f"agents.heartbeat.{sender.pk}", json.dumps({"sent_at": clock}).encode())


@once_and_long
def test_the_bridge_s_own_clock_a_day_or_decades_off_loses_nothing(
    agent,  # noqa: F811
    session,  # noqa: F811
    faults,
    seconds,
    monkeypatch,
):
    """Both sides write values that stay and values that live for ten minutes; relay, flusher and reconcile work by a
    clock that is wrong: PostgreSQL's and nats-server's are right."""
    right = timezone.now
    written, keys = {}, []
    for turn in live_for(seconds):
        for shift in (timedelta(days=1), timedelta(days=-1), timedelta(days=20_000)):
            monkeypatch.setattr(timezone, "now", lambda by=shift: right() + by)
            faults.happened("clock wrong")
            keys = [f"{kind}.{turn % 20}.{shift.days}" for kind in ("pg", "pg-short", "kv", "kv-short")]
            soon = "now() + interval '10 minutes'"
            upsert = "INSERT INTO agents.state (agent_id, state_key, state_value, expires_at) VALUES (%s, %s, %s, {})"
            upsert += " ON CONFLICT (agent_id, state_key) DO UPDATE SET state_value = EXCLUDED.state_value"
            rows(upsert.format("NULL"), agent.pk, keys[0], str(turn))
            rows(upsert.format(soon), agent.pk, keys[1], str(turn))
            write("AGENT_STATE", f"{agent.pk}.{keys[2]}", turn)
            write("AGENT_STATE", f"{agent.pk}.{keys[3]}", turn, Nats_TTL="600s", Nats_Rollup="sub")
            while relay_batch(session, Memory()).read:
                pass
            flush(session)
            reports = reconcile(session, repair=True)
            faults.wrong(not_in_step=sum(report.wrong for report in reports))
            written |= dict.fromkeys(keys, turn)
    monkeypatch.setattr(timezone, "now", right)
    stored = state(agent)
    faults.did(keys=len(written))
    faults.wrong(
        lost=sum(stored.get(key) != number for key, number in written.items()),
        stale=sum(value("AGENT_STATE", f"{agent.pk}.{key}") != number for key, number in written.items()),
    )


@once_and_long
def test_a_stream_that_is_read_again_from_its_beginning_changes_nothing(agent, session, faults, seconds):  # noqa: F811
    """As after a lost consumer, or a retention that was longer than thought: rows changed, and deleted, meanwhile."""
    note_epochs(session, setup.read_found().created)
    item = topology.consumers()["FLUSH_AGENT_STATE/flusher"]
    for turn in live_for(seconds):
        for number in range(60):
            write("AGENT_STATE", f"{agent.pk}.k{number % 20}", turn * 100 + number)
        for number in range(5):
            write("AGENT_STATE", f"{agent.pk}.k{number}", operation="DEL")
        flush(session)
        AgentState.objects.filter(state_key__in=["k18", "k19"]).delete()
        AgentState.objects.filter(state_key="k17").update(state_value="operator")
        while relay_batch(session, Memory()).read:
            pass
        before = state(agent)
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


class Pusher:
    """A process of tests/faults/pushing.py."""

    def __init__(self, agent_id):
        command = [sys.executable, "-m", "tests.faults.pushing", str(agent_id)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def tell(self, text):
        """Say a line, and return the answer."""
        self.process.stdin.write(f"{text}\n")
        return self.process.stdout.readline().strip()

    def end(self):
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


@once_and_long
def test_commit_callbacks_in_reverse_order_end_at_the_newer_value(agent, session, faults, seconds):  # noqa: F811
    """Two processes commit one after the other; the callback of the second runs first, that of the first last."""
    AgentState.objects.create(agent=agent, state_key="a", state_value=0)
    key, stale, first, second = f"{agent.pk}.a", 0, Pusher(agent.pk), Pusher(agent.pk)
    try:
        for turn in live_for(seconds, least=10):
            older, newer = turn * 2, turn * 2 + 1
            assert (first.tell(older), second.tell(newer)) == ("committed", "committed")
            assert (second.tell("push"), first.tell("push")) == ("pushed", "pushed")
            faults.happened("callbacks reversed")
            stale += value("AGENT_STATE", key) != newer
            while relay_batch(session, Memory()).read:
                pass
            stale += value("AGENT_STATE", key) != newer
            faults.did(writes=2)
    finally:
        first.end()
        second.end()
    faults.wrong(stale=stale)
    empty_outbox()
