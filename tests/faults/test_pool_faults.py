"""A pool whose connections are all held by a stuck server, and a server that is restarted under its pools."""

import time
from contextlib import ExitStack

import psycopg
import pytest

from tests.faults.cluster import TABLES, Client, Cluster

pytestmark = pytest.mark.deep


@pytest.fixture
def world(restartable, own_home):
    running = restartable("postgres")
    with psycopg.connect(running.server.url(), autocommit=True) as session:
        session.execute(TABLES)
    running.home = own_home
    return running


def count(world, client, faults):
    with psycopg.connect(world.server.url()) as session:
        found = [str(row[0]) for row in session.execute("SELECT id FROM written")]
    acknowledged = {event.detail for event in client.those("wrote")}
    faults.did(acknowledged=len(acknowledged))
    faults.wrong(lost=len(acknowledged - set(found)), doubled=len(found) - len(set(found)))


def test_an_exhausted_pool_says_so_in_time_and_recovers(make_home, faults):
    """Ten writers share four connections, and a server that stands still holds all of them: who waits is told so after
    the time for it, 30 s, and nobody waits for ever."""
    with ExitStack() as stack:
        cluster = Cluster(make_home, stack, "", sync=False)
        client = Client(
            cluster, cluster.url("a"), writers=10, MISTERSMITH_POOL_PRIMARY="16/0"
        )  # four processes
        stack.callback(client.end)
        client.sees("wrote", 0, number=50)
        with cluster.paused("a"):
            faults.happened("all connections held")
            refused = client.sees("failed", time.monotonic(), "gave no connection within 30 s", 6)
        client.sees("wrote", time.monotonic(), number=100)
        acknowledged = {event.detail for event in client.those("wrote")}
        found = [str(row[0]) for row in cluster.ask("a", "SELECT id FROM written")]
    faults.did(acknowledged=len(acknowledged))
    faults.wrong(
        lost=len(acknowledged - set(found)),
        doubled=len(found) - len(set(found)),
        without_a_hint=len([one for one in refused if "HINT" not in one.detail]),
    )


@pytest.mark.parametrize("rounds", [3])
def test_a_restarted_server_costs_a_moment(world, faults, rounds):
    client = Client(world, world.server.url(), writers=5, readers=5)
    try:
        client.sees("wrote", 0, number=50)
        for _ in range(rounds):
            world.stop()
            faults.happened("server restarted")
            world.start()
            began = time.monotonic()
            first = client.sees("wrote", began)[0]
            print(f"writes went on {first.at - began:.2f} s after the start")  # noqa: T201  (with -s)
            client.sees("wrote", began, number=50)
            client.sees("read", began, number=20)
    finally:
        client.end()
    count(world, client, faults)
    faults.wrong(readers_failed=len([one for one in client.those("failed") if one.detail.startswith("read")]))
