"""A JetStream cluster of three whose leaders are killed while relay and flusher work: nothing lost, stale or twice."""

import json
import subprocess
import sys
import time

import pytest

from bridge import topology
from bridge.batches import MOST, with_batch
from bridge.connection import Link
from bridge.publisher import WRONG_LAST_SEQUENCE, Message
from tests.bridge.conftest import wait_until
from tests.faults.bridging import ROOT, Bridging, choose
from tests.faults.nats_cluster import ask, running_cluster

pytestmark = [pytest.mark.servers, pytest.mark.deep]


@pytest.fixture
def cluster(own_home):
    with running_cluster(own_home) as cluster:
        yield cluster


@pytest.fixture
def bridging(own_database, cluster, tmp_path):
    made = Bridging(own_database.url, cluster.url, tmp_path)
    yield made
    made.end()


def setup(bridging, *options, replicas=3):
    """Run `bridge setup` as an operator does; return its steps."""
    command = [sys.executable, "manage.py", "bridge", "setup", "--json", *options]
    environ = {**bridging.environ, "MISTERSMITH_NATS_REPLICAS": str(replicas)}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)["steps"]


def replicas(bridging):
    async def look(client):
        infos = await client.jetstream.streams_info()
        return {info.config.name: info.config.num_replicas for info in infos}

    return bridging.link.call(look, 30)


def test_setup_spreads_over_the_cluster_sees_drift_and_grows_from_one_replica(bridging, cluster, faults):
    setup(bridging, replicas=1)
    assert set(replicas(bridging).values()) == {1}
    plan = setup(bridging, "--dry-run")
    assert {step["action"] for step in plan} == {"update"}
    assert all("num_replicas is 1, declared 3" in step["why"] for step in plan)
    bridging.put(bridging.agents[0], "kv", 1)
    setup(bridging)
    found = replicas(bridging)
    assert found == {item.stream: min(3, item.replicas) for item in topology.declared()}
    wait_until(lambda: all(node.server.is_healthy() for node in cluster.nodes), 60)
    assert setup(bridging, "--dry-run") == []
    faults.kill("leader", cluster.leader_of(bridging.link, "KV_AGENT_STATE"))
    wait_until(lambda: bridging.kv_or_none() == {(bridging.agents[0], "kv"): 1}, 60)
    faults.did(streams=len(found))
    faults.wrong(lost=0 if bridging.kv() else 1)


def test_a_batch_whose_leader_is_killed_before_its_end_is_stored_once(bridging, cluster, faults):
    """Three replicas: what the first leader had of the batch is gone with it, and the relay sends all again."""
    setup(bridging)
    whole = [value(f"a{number}") for number in range(MOST)]
    assert {outcome.count for outcome in publish(bridging, whole)} == {MOST}
    again = [value(f"b{number}") for number in range(MOST)]

    async def send_all_but_the_last(client):
        for number, message in enumerate(again[:-1], 1):
            headers = with_batch(message.headers, "of-one-that-has-no-end", number, False)
            await client.nc.publish(message.subject, message.data, headers=headers)
        await client.nc.flush()

    bridging.link.call(send_all_but_the_last, 10)
    victim = cluster.leader_of(bridging.link, "KV_TASK_STATE")
    faults.kill("leader", victim)
    outcomes = {}
    wait_until(lambda: try_to_publish(bridging, again, outcomes), 60)
    victim.start()
    cluster.wait_until_whole()
    state = bridging.link.call(lambda c: c.jetstream.stream_info("KV_TASK_STATE"), 30).state
    faults.did(stored=len(outcomes))  # batched where the answer came: not where the leader was lost with it
    faults.wrong(lost=2 * MOST - state.messages, duplicated=state.last_seq - 2 * MOST)


def value(key):
    headers = {"Nats-Expected-Last-Subject-Sequence": "0"}
    return Message(f"$KV.TASK_STATE.{key}", b"1", headers, "KV_TASK_STATE")


def publish(bridging, messages):
    return bridging.link.call(lambda client: client.publisher.publish(messages, 2), 10)


def try_to_publish(bridging, messages, stored):
    """Send what is not known to be stored; a wrong revision says that it was, by a try without an answer."""
    left = [message for message in messages if message.subject not in stored]
    for message, outcome in zip(left, ask(lambda: publish(bridging, left)) or [], strict=False):
        if outcome.is_stored or outcome.code == WRONG_LAST_SEQUENCE:
            stored[message.subject] = outcome
    return len(stored) == len(messages)


def test_a_process_that_knows_one_server_goes_to_those_that_it_was_told_of(cluster, faults, caplog):
    """Its server is killed for good; the user and the password of NATS_URL hold for the others."""
    known, *_ = cluster.nodes
    link = Link(known.server.url())
    try:
        wait_until(link.is_connected)
        faults.kill("node", known)
        wait_until(lambda: link.reconnects and link.is_connected())
        told = link.call(read_connected, 10)
        assert told != known.server.port()
    finally:
        link.close()
    faults.did(reconnects=link.reconnects)
    faults.wrong(refused=caplog.text.count("Authorization"))


async def read_connected(client):
    """Return the port of the server that answers."""
    await client.nc.flush()
    return client.nc.connected_url.port


@pytest.mark.parametrize("seconds", [pytest.param(5, id="short"), pytest.param(60, id="60-s")])
def test_leaders_are_killed_while_both_sides_write(bridging, cluster, faults, seconds):
    """kill -9 of the node that leads a bucket, its FLUSH stream or the events; the next when all are in step."""
    bridging.prepare()
    bridging.start_bridge()
    wait_until(bridging.leads, 60)
    wait_until(lambda: bridging.is_set_up(), 60)
    chosen = choose(2, {"KV_AGENT_STATE": 2, "FLUSH_AGENT_STATE": 2, "AGENT_STATE": 1})
    deadline, turns = time.monotonic() + seconds, 0
    with bridging.writers():
        while turns < 3 or time.monotonic() < deadline:
            victim = cluster.leader_of(bridging.link, next(chosen))
            faults.kill("leader", victim)
            time.sleep(0.5)
            victim.start()
            cluster.wait_until_whole()
            turns += 1
    bridging.settle()
    bridging.count(faults)
    bridging.reconcile()
