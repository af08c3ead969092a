"""The bridge while both sides write and things are killed, stopped, emptied and filled: nothing lost, nothing stale,
nothing twice."""

import contextlib
import signal
import subprocess
import time

import pytest

from pg.errors import Unreachable
from tests.bridge.conftest import wait_until
from tests.faults.bridging import BACKENDS, Bridging, choose

pytestmark = pytest.mark.servers
short_and_long = pytest.mark.parametrize(
    "seconds", [pytest.param(5, id="short"), pytest.param(60, id="60-s", marks=pytest.mark.deep)]
)


@pytest.fixture
def nats(restartable):
    return restartable("nats")


@pytest.fixture
def bridging(own_database, nats, tmp_path):
    made = Bridging(own_database.url, nats.server.url(), tmp_path)
    made.prepare()
    made.start_bridge()
    wait_until(lambda: made.leads() and made.has_bucket(), 60)
    yield made
    made.end()


def live_for(seconds):
    """Give turns until the time is over, and at least four."""
    deadline, turns = time.monotonic() + seconds, 0
    while turns < 4 or time.monotonic() < deadline:
        turns += 1
        yield turns


@short_and_long
def test_random_kills_and_zombies(bridging, nats, faults, seconds):
    """kill -9 of nats-server and of the bridge (relay and flusher); a bridge that is stopped, loses its sessions, and
    comes back after its successor has taken over; backends that are terminated."""
    with bridging.writers():
        chosen = choose(1, {"bridge": 2, "nats": 2, "zombie": 1, "backends": 1})
        for _, what in zip(live_for(seconds), chosen, strict=False):
            {"bridge": kill_bridge, "nats": kill_nats, "zombie": wake_zombie, "backends": cut_backends}[what](
                bridging, nats, faults
            )
            time.sleep(0.5)
    bridging.settle()
    bridging.count(faults)


def kill_bridge(bridging, nats, faults):
    victim = bridging.bridges.pop()
    faults.kill("bridge", victim)
    bridging.retired.append(victim)
    bridging.start_bridge()
    wait_until(bridging.leads, 60)


def kill_nats(bridging, nats, faults):
    faults.kill("nats", nats)
    time.sleep(0.3)
    nats.start()
    wait_until(bridging.link.is_connected, 30)


def wake_zombie(bridging, nats, faults):
    zombie = bridging.bridges.pop()
    zombie.send_signal(signal.SIGSTOP)
    cut_backends(bridging, nats, faults)
    bridging.start_bridge()
    wait_until(bridging.leads, 60)
    zombie.send_signal(signal.SIGCONT)
    bridging.retired.append(zombie)
    faults.happened("zombie back")


def cut_backends(bridging, nats, faults):
    cut = bridging.ask(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND ({BACKENDS})"
    )
    faults.happened("session terminated", len(cut))


def test_a_killed_leader_is_followed(bridging, faults):
    """The stand-by is up before; what counts is how soon it leads."""
    bridging.start_bridge()
    standing_by = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'mistersmith relay'"
    )
    wait_until(lambda: bridging.ask(standing_by) == [(2,)], 60)
    with bridging.writers():
        first = bridging.bridges.pop(0)
        faults.kill("leading bridge", first)
        bridging.retired.append(first)
        wait_until(bridging.leads, 60)
    bridging.settle()
    bridging.count(faults)


@pytest.mark.deep
def test_an_hour_s_writes_while_nats_is_away(bridging, nats, faults):
    """36,000 updates of 2,000 keys, 10 a second for an hour, and 200 events; agents cannot write meanwhile."""
    faults.kill("nats", nats)
    for step in range(1, 19):
        bridging.ask(
            "INSERT INTO agents.state (agent_id, state_key, state_value)"
            " SELECT a, 'hour.' || n, to_jsonb(%s::int) FROM unnest(%s::uuid[]) a, generate_series(1, 100) n"
            " ON CONFLICT (agent_id, state_key) DO UPDATE SET state_value = EXCLUDED.state_value",
            step,
            bridging.agents,
        )
    for status in ("active", "idle") * 5:
        bridging.ask("UPDATE agents.registry SET status = %s::agent_status_type", status)
    assert bridging.outbox_rows() >= 36_000
    faults.did(rows_waiting=bridging.outbox_rows())
    nats.start()
    wait_until(bridging.link.is_connected, 30)
    wait_until(lambda: puts(bridging, bridging.agents[0], "kv", 1), 30)
    bridging.by_agents[bridging.agents[0], "kv"] = 1
    bridging.by_postgres = {(agent, f"hour.{n}"): 18 for agent in bridging.agents for n in range(1, 101)}
    bridging.settle()
    bridging.count(faults)


def puts(bridging, agent, key, value):
    """Whether JetStream stores it: after an outage it takes a moment."""
    with contextlib.suppress(Unreachable):
        return bridging.put(agent, key, value)


@pytest.mark.deep
def test_a_bucket_that_is_deleted_and_made_anew_is_filled_and_flushed_again(bridging, faults):
    with bridging.writers():
        time.sleep(1)
    bridging.settle()
    bridging.link.call(lambda client: client.jetstream.delete_stream("KV_AGENT_STATE"), 5)
    faults.happened("bucket deleted")
    with bridging.writers():
        wait_until(bridging.has_bucket, 60)
        time.sleep(1)
    # what nobody wrote since the deletion is only in PostgreSQL: reconcile fills it in
    wait_until(lambda: not bridging.outbox_rows(), 60)
    wait_until(lambda: all(bridging.state().get(key) == n for key, n in bridging.by_agents.items()), 60)
    bridging.reconcile()
    bridging.settle()
    bridging.count(faults)


def test_a_bridge_that_sleeps_while_thousands_write_catches_up(bridging, faults):
    """A slow consumer: what it did not take waits on the server, not in its memory."""
    (bridge,) = bridging.bridges
    bridge.send_signal(signal.SIGSTOP)
    faults.happened("bridge asleep")
    for number in range(1, 3_001):
        agent = bridging.agents[number % 20]
        bridging.put(agent, "kv", number)
        bridging.by_agents[agent, "kv"] = number
    with bridging.writers():
        time.sleep(0.5)
        bridge.send_signal(signal.SIGCONT)
        time.sleep(0.5)
    bridging.settle()
    bridging.count(faults)


def test_poison_is_set_apart_and_everything_else_goes_on(bridging, faults):
    """Bad JSON, bad keys, unknown agents, too large a value, each between good writes of both sides."""
    agent = bridging.agents[0]
    bad = [b"{", b"\xff", b'"\\u0000"', b"", b"[" * 10_000]
    with bridging.writers():
        for number, data in enumerate(bad):
            bridging.put(agent, f"bad{number}", data)
        for key in ("no-uuid.a", "alone", "00000000-0000-7000-8000-00000000dead.a"):
            bridging.link.call(lambda c, k=key: c.jetstream.publish(f"$KV.AGENT_STATE.{k}", b"1"), 5)
        bridging.ask(
            "INSERT INTO bridge.outbox (target, key, op, payload) VALUES"
            " ('AGENT_CONFIG', 'x', 'U', to_jsonb(repeat('x', 600000))), ('AGENT_CONFIG', 'bad key', 'D', NULL)"
        )
        wait_until(lambda: bridging.ask("SELECT count(*) FROM bridge.dead_letters") == [(8,)], 30)
        wait_until(lambda: bridging.ask("SELECT count(*) FROM bridge.quarantine") == [(2,)], 30)
    faults.happened("poison message", 8)
    faults.happened("impossible row", 2)
    bridging.settle()
    bridging.count(faults)


# -- the disk of nats-server ------------------------------------------------------------------------------------
@pytest.fixture
def small_disk(own_home):
    """The folder of a nats-server on a file system of 160 MB."""
    folder = own_home / "nats"
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here (root with CAP_SYS_ADMIN is needed)")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.deep
def test_a_full_disk_of_nats_costs_time_and_nothing_else(small_disk, nats, own_database, tmp_path, faults):
    """PostgreSQL's writes wait in the outbox while JetStream has no room; agents are told that theirs are not in."""
    made = Bridging(own_database.url, nats.server.url(), tmp_path)
    try:
        made.prepare()
        made.start_bridge()
        wait_until(made.leads, 60)
        with made.writers():
            ballast = small_disk / "ballast"
            fill_up(ballast)
            faults.happened("disk full")
            time.sleep(3)
            ballast.unlink()
            nats.kill()  # a server that met a full disk may have stopped JetStream until its restart
            nats.start()
            faults.happened("nats restarted")
            wait_until(made.link.is_connected, 30)
            time.sleep(1)
        made.settle()
        made.count(faults)
    finally:
        made.end()


def fill_up(path):
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 65_536)
