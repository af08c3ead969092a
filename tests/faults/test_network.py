"""Connections killed by the hundred, and a network that is slow or cut, between our pools and a real server."""

import socket
import threading
import time
from contextlib import suppress

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.faults.cluster import TABLES, Client

pytestmark = pytest.mark.deep


class Wire:
    """A TCP proxy: `delay_seconds` before each piece is passed on, `target` changes where new connections lead."""

    def __init__(self, target: int, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self.target, self.delay_seconds, self.pairs, self.ends = target, 0.0, [], []
        self.listener = socket.create_server(address)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                self.ends.append(near)
                try:
                    far = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    near.close()
                    continue
                self.pairs.append((near, far))
                self.ends.append(far)
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self.pump, args=(one, other), daemon=True).start()

    def pump(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while piece := one.recv(65536):
                threading.Event().wait(self.delay_seconds)
                other.sendall(piece)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> int:
        """Cut every connection; return how many there were."""
        pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        return len(pairs)

    def close(self) -> None:
        """Put everything away: the threads end with what they wait for."""
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.cut()
        for end in (self.listener, *self.ends):
            end.close()


@pytest.fixture
def world(restartable, own_home):
    """A server behind a wire."""
    server = restartable("postgres").server
    with psycopg.connect(server.url(), autocommit=True) as session:
        session.execute(TABLES)
    wire = Wire(server.port())
    wire.home, wire.server = own_home, server
    wire.url = server.url().replace(f":{conninfo_to_dict(server.url())['port']}/", f":{wire.port}/")
    yield wire
    wire.close()


def count(world, client, faults):
    with psycopg.connect(world.server.url()) as session:
        found = [str(row[0]) for row in session.execute("SELECT id FROM written")]
    acknowledged = {event.detail for event in client.those("wrote")}
    faults.did(acknowledged=len(acknowledged))
    faults.wrong(lost=len(acknowledged - set(found)), doubled=len(found) - len(set(found)))
    faults.wrong(readers_failed=len([one for one in client.those("failed") if one.detail.startswith("read")]))


def test_connections_killed_by_the_hundred_cost_readers_nothing(world, faults):
    client = Client(world, world.server.url(), writers=10, readers=10, MISTERSMITH_POOL_PRIMARY="80/0")
    try:
        client.sees("wrote", 0, number=50)
        killed = 0
        with psycopg.connect(world.server.url(), autocommit=True) as session:
            while killed < 300:
                query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                killed += session.execute(query + " WHERE application_name = 'mistersmith web'").fetchone()[0]
                client.sees("wrote", time.monotonic(), number=5)
        faults.happened("connection killed", killed)
        client.sees("wrote", time.monotonic(), number=50)
        client.sees("read", time.monotonic(), number=50)
    finally:
        client.end()
    count(world, client, faults)


def test_a_slow_network_slows_work_down_and_breaks_nothing(world, faults):
    """100 ms each way: a connection takes a second, and is kept."""
    client = Client(world, world.url, writers=2, readers=2)
    try:
        client.sees("wrote", 0, number=20)
        world.delay_seconds = 0.1
        faults.happened("network slow")
        client.sees("wrote", time.monotonic(), number=20)
        world.delay_seconds = 0.0
        client.sees("wrote", time.monotonic(), number=50)
    finally:
        client.end()
    faults.wrong(writers_failed=len(client.those("failed")))
    count(world, client, faults)


def test_a_cut_network_is_an_outage_that_ends(world, faults):
    client = Client(world, world.url, writers=2, readers=2)
    try:
        client.sees("wrote", 0, number=20)
        for _ in range(5):
            faults.happened("connections cut", world.cut())
            client.sees("wrote", time.monotonic(), number=20)
    finally:
        client.end()
    count(world, client, faults)


def test_an_address_that_means_another_server_now_is_followed(world, restartable, make_home, faults):
    """What a changed DNS entry or a moved virtual address does: the same name, another server. The old one lives on."""
    from cockpit.servers import Postgres, Running

    with Running(Postgres(make_home())) as other:
        other_url = other.server.url()
        with psycopg.connect(other_url, autocommit=True) as session:
            session.execute(TABLES)
            session.execute(f"ALTER ROLE mistersmith PASSWORD '{world.server.password()}'")
        other_url = other_url.replace(f":{other.server.password()}@", f":{world.server.password()}@")
        client = Client(world, world.url, writers=2)
        try:
            client.sees("wrote", 0, number=20)
            world.target = other.server.port()
            faults.happened("address moved")
            world.cut()
            client.sees("wrote", time.monotonic(), number=20)
        finally:
            client.end()
        with psycopg.connect(other_url) as session:
            moved = session.execute("SELECT count(*) FROM written").fetchone()[0]
    faults.did(written_there=moved)
    faults.wrong(not_followed=int(moved == 0))
