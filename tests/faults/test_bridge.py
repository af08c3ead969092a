"""The bridge while both sides write and things are killed, stopped, emptied and filled: nothing lost, nothing stale,
nothing twice."""

import contextlib
import json
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from cockpit.servers import Postgres, Running
from cockpit.servers.nats import USER
from pg.errors import Unreachable
from tests.bridge.conftest import wait_until
from tests.faults.bridging import BACKENDS, PATIENCE_SECONDS, Bridging, choose, live_for

pytestmark = pytest.mark.servers
LONG = pytest.param(60, id="60-s", marks=pytest.mark.deep)
short_and_long = pytest.mark.parametrize("seconds", [pytest.param(5, id="short"), LONG])
once_and_long = pytest.mark.parametrize("seconds", [pytest.param(0, id="once"), LONG])
deep_and_long = pytest.mark.parametrize("seconds", [pytest.param(0, id="once", marks=pytest.mark.deep), LONG])


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


@short_and_long
def test_random_kills_and_zombies(bridging, nats, faults, seconds):
    """kill -9 of nats-server, the bridge (relay and flusher), and a process that saves by the ORM as the web does;
    a bridge that is stopped, loses its sessions, and comes back after its successor has taken over; backends that are
    terminated."""
    kinds = {
        "bridge": kill_bridge,
        "nats": kill_nats,
        "web": kill_web,
        "zombie": wake_zombie,
        "backends": cut_backends,
    }
    with bridging.writers(), bridging.web():
        chosen = choose(1, {"bridge": 2, "nats": 2, "web": 1, "zombie": 1, "backends": 1})
        least = 10 if seconds > 5 else 5  # of ten, each kind is one at least
        for _, what in zip(live_for(seconds, least), chosen, strict=False):
            kinds[what](bridging, nats, faults)
            time.sleep(0.5)
    bridging.settle()
    bridging.count(faults)


def kill_bridge(bridging, nats, faults):
    victim = bridging.bridges.pop()
    faults.kill("bridge", victim)
    bridging.retired.append(victim)
    bridging.start_bridge()
    wait_until(bridging.leads, 60)


def kill_web(bridging, nats, faults):
    wait_until(bridging.web_has_saved, 60)
    faults.kill("web", bridging.web_process)
    bridging.note_web()
    bridging.start_web()


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


def test_a_killed_leader_is_followed_within_five_seconds(bridging, faults):
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
        killed_at = time.monotonic()
        bridging.retired.append(first)
        wait_until(lambda: bridging.leads(), 5)
        took = time.monotonic() - killed_at
    assert took < 5, f"nobody led for {took:.1f} s"
    bridging.settle()
    bridging.count(faults)


@deep_and_long
def test_an_hour_s_writes_while_nats_is_away(bridging, nats, faults, seconds):
    """36,000 updates of 2,000 keys, 10 a second for an hour, and 200 events; agents cannot write meanwhile."""
    for turn in live_for(seconds):
        faults.kill("nats", nats)
        for step in range(1, 19):
            bridging.ask(
                "INSERT INTO agents.state (agent_id, state_key, state_value)"
                " SELECT a, 'hour.' || n, to_jsonb(%s::int) FROM unnest(%s::uuid[]) a, generate_series(1, 100) n"
                " ON CONFLICT (agent_id, state_key) DO UPDATE SET state_value = EXCLUDED.state_value",
                turn * 100 + step,
                bridging.agents,
            )
        for status in ("active", "idle") * 5:
            bridging.ask("UPDATE agents.registry SET status = %s::agent_status_type", status)
        assert bridging.outbox_rows() >= 36_000
        faults.did(rows_waiting=bridging.outbox_rows())
        nats.start()
        wait_until(bridging.link.is_connected, 30)
        wait_until(lambda turn=turn: puts(bridging, bridging.agents[0], "kv", turn), 30)
        bridging.by_agents[bridging.agents[0], "kv"] = turn
        for agent in bridging.agents:
            bridging.by_postgres |= {(agent, f"hour.{n}"): turn * 100 + 18 for n in range(1, 101)}
        bridging.settle()
    bridging.count(faults)


def puts(bridging, agent, key, value):
    """Whether JetStream stores it: after an outage it takes a moment."""
    with contextlib.suppress(Unreachable):
        return bridging.put(agent, key, value)


@deep_and_long
def test_a_bucket_that_is_deleted_and_made_anew_is_filled_and_flushed_again(bridging, faults, seconds):
    with bridging.writers():
        time.sleep(1)
    for _ in live_for(seconds):
        bridging.settle()
        bridging.link.call(lambda client: client.jetstream.delete_stream("KV_AGENT_STATE"), 5)
        faults.happened("bucket deleted")
        with bridging.writers():
            wait_until(bridging.has_bucket, 30)
            time.sleep(1)
        # what nobody wrote since the deletion is only in PostgreSQL: reconcile fills it in
        wait_until(lambda: not bridging.outbox_rows(), 60)
        wait_until(lambda: all(bridging.state().get(key) == n for key, n in bridging.by_agents.items()), 60)
        bridging.reconcile()
    bridging.settle()
    bridging.count(faults)


@once_and_long
def test_a_bridge_that_sleeps_while_thousands_write_catches_up(bridging, faults, seconds):
    """A slow consumer: what it did not take waits on the server, not in its memory."""
    (bridge,) = bridging.bridges
    for _ in live_for(seconds):
        bridge.send_signal(signal.SIGSTOP)
        faults.happened("bridge asleep")
        first = bridging.next_base()
        for number in range(first, first + 3_000):
            agent = bridging.agents[number % 20]
            bridging.put(agent, "kv", number)
            bridging.by_agents[agent, "kv"] = number
        with bridging.writers():
            time.sleep(0.5)
            bridge.send_signal(signal.SIGCONT)
            time.sleep(0.5)
        bridging.settle()
    bridging.count(faults)


BAD_VALUES = [b"{", b"\xff", b'"\\u0000"', b"", b"[" * 10_000]
BAD_KEYS = ("no-uuid.a", "alone", "00000000-0000-7000-8000-00000000dead.a")


@once_and_long
def test_poison_is_set_apart_and_everything_else_goes_on(bridging, nats, faults, seconds):
    """Bad JSON, bad keys, unknown agents, values too large for the bucket, messages too large for the server, each
    between good writes of both sides."""
    letters, rows = len(BAD_VALUES) + len(BAD_KEYS), 2
    with bridging.writers():
        for turn in live_for(seconds):
            for number, data in enumerate(BAD_VALUES):
                bridging.put(bridging.agents[turn % 20], f"bad{turn}.{number}", data)
            for key in BAD_KEYS:
                bridging.link.call(lambda c, k=key: c.jetstream.publish(f"$KV.AGENT_STATE.{k}", b"1"), 5)
            with pytest.raises(Unreachable, match="maximum allowed"):
                bridging.put(bridging.agents[0], "kv", b"1" * (3 << 20))
            assert b"Maximum Payload" in shout(nats.server, b"$KV.AGENT_STATE.too.large", 5 << 20)
            bridging.ask(
                "INSERT INTO bridge.outbox (target, key, op, payload) VALUES"
                " ('AGENT_CONFIG', %s, 'U', to_jsonb(repeat('x', 600000))), ('AGENT_CONFIG', %s, 'D', NULL)",
                f"x{turn}",
                f"bad key {turn}",
            )
            faults.happened("poison message", letters)
            faults.happened("message too large", 2)
            faults.happened("impossible row", rows)
            wait_until(lambda n=turn * letters: count(bridging, "dead_letters") == n, 30)
            wait_until(lambda n=turn * rows: count(bridging, "quarantine") == n, 30)
    bridging.settle()
    bridging.count(faults)


def count(bridging, table):
    return bridging.ask(f"SELECT count(*) FROM bridge.{table}")[0][0]


def shout(server, subject, size):
    """Publish as a client does that knows no limit; return what the server says before it hangs up."""
    login = json.dumps({"user": USER, "pass": server.password(), "verbose": False})
    with socket.create_connection(("127.0.0.1", server.port()), timeout=10) as sock:
        sock.sendall(f"CONNECT {login}\r\nPUB ".encode() + subject + f" {size}\r\n".encode())
        return b"".join(iter(lambda: sock.recv(4096), b""))


# -- PostgreSQL ---------------------------------------------------------------------------------------------------
@pytest.fixture
def postgres(restartable):
    return restartable("postgres")


@deep_and_long
def test_postgresql_is_killed_and_restarted_while_the_flusher_writes(
    postgres, nats, tmp_path, faults, seconds
):
    """Each time a flusher's transaction is open for certain: it waits for a row that somebody holds."""
    made = Bridging(postgres.server.url(), nats.server.url(), tmp_path)
    try:
        made.migrate()
        made.prepare()
        made.start_bridge()
        wait_until(lambda: made.leads() and made.has_bucket(), 60)
        with made.writers():
            for turn in live_for(seconds, least=2):
                with made.flusher_waiting():
                    if turn % 2:
                        faults.kill("postgres", postgres)
                    else:
                        postgres.stop()
                        faults.happened("postgres stopped")
                postgres.start()
                wait_until(made.leads, 60)
                time.sleep(0.5)
        made.settle()
        made.count(faults)
    finally:
        made.end()


# -- its clock ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Shifted(Postgres):
    """A PostgreSQL whose clock is wrong in all that it says and stores: libfaketime, loaded into it."""

    shift: str = ""
    library: str = ""

    def foreground(self):
        told = {"LD_PRELOAD": self.library, "FAKETIME": self.shift, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        return ["env", *(f"{name}={value}" for name, value in told.items()), *super().foreground()]


@pytest.fixture
def start_shifted(own_home):
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("libfaketime is missing (Debian, Ubuntu: apt-get install libfaketime)")
    with contextlib.ExitStack() as stack:
        yield lambda shift: stack.enter_context(
            Running(Shifted(own_home, shift=shift, library=str(found[0])))
        )


@pytest.mark.parametrize("shift", ["+3600s", "-3600s"])
@deep_and_long
def test_clocks_that_are_an_hour_apart_lose_nothing_and_are_named(
    start_shifted, nats, tmp_path, faults, seconds, shift
):
    """PostgreSQL's against nats-server's. What shifts is when values end; doctor says why."""
    made = Bridging(start_shifted(shift).server.url(), nats.server.url(), tmp_path)
    try:
        made.migrate()
        made.prepare()
        made.start_bridge()
        wait_until(lambda: made.leads() and made.has_bucket(), 60)
        faults.happened("clocks an hour apart")
        with made.writers():
            for _ in live_for(seconds):
                time.sleep(2)
        made.settle()
        made.count(faults)
        made.reconcile()
        told = made.doctor("bridge.clocks")
        assert not told["ok"]
        assert round(float(told["detail"].split(" s ")[0].rsplit(" ", 1)[1])) in range(3_590, 3_611), told
    finally:
        made.end()


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


@deep_and_long
def test_a_full_disk_of_nats_costs_time_and_nothing_else(
    small_disk, nats, own_database, tmp_path, faults, seconds
):
    """PostgreSQL's writes wait in the outbox while JetStream has no room; agents are told that theirs are not in."""
    made = Bridging(own_database.url, nats.server.url(), tmp_path)
    try:
        made.prepare()
        made.start_bridge()
        wait_until(lambda: made.leads() and made.is_set_up(), 60)  # not: streams made on a full disk
        ballast = small_disk / "ballast"
        for _ in live_for(seconds):
            with made.writers():
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
        made.settle()
        made.count(faults)
    finally:
        made.end()


@pytest.mark.deep
def test_a_bridge_that_starts_on_a_full_disk_of_nats_comes_right_with_room(
    small_disk, nats, own_database, tmp_path, faults
):
    """Streams that a server makes without room may be gone with its next start, and what they had taken with them: so
    nothing may be called stored until they are there to stay."""
    made = Bridging(own_database.url, nats.server.url(), tmp_path)
    try:
        made.prepare()
        ballast = small_disk / "ballast"
        fill_up(ballast)
        faults.happened("disk full")
        made.start_bridge()
        wait_until(lambda: made.leads() and (made.is_set_up() or made.has_told("relay waits:")), 60)
        ballast.unlink()
        nats.kill()
        nats.start()
        faults.happened("nats restarted")
        wait_until(made.is_set_up, PATIENCE_SECONDS)
        with made.writers():
            wait_until(lambda: len(made.by_agents) == len(made.by_postgres) == len(made.agents), 60)
        made.settle()
        made.count(faults)
    finally:
        made.end()


def fill_up(path):
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 65_536)
