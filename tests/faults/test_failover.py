"""Primary and replicas killed, paused, late, on the wrong timeline: what writers and readers through our pools see."""

import time
from contextlib import ExitStack

import pytest

from tests.faults.cluster import Client, Cluster

RESUME_SECONDS = 10
deep = pytest.mark.deep


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def client(stack):
    """Start a client that ends before its servers do."""

    def start(cluster, *arguments, **environ):
        started = Client(cluster, *arguments, **environ)
        stack.callback(started.end)
        return started

    return start


def count_writes(cluster, server, client, faults):
    """Compare what was acknowledged with what the server has."""
    acknowledged = [event.detail for event in client.those("wrote")]
    found = [str(row[0]) for row in cluster.ask(server, "SELECT id FROM written")]
    faults.did(acknowledged=len(acknowledged))
    faults.wrong(lost=len(set(acknowledged) - set(found)), doubled=len(found) - len(set(found)))


@pytest.mark.parametrize("standbys", ["b", pytest.param("bc", marks=deep)])
def test_a_promoted_standby_gets_the_writes_and_an_old_primary_that_comes_back_none(
    make_home, stack, client, faults, standbys
):
    """The primary dies under load; `b`, which has all that was acknowledged, is promoted; then `a` comes back."""
    cluster = Cluster(make_home, stack, standbys)
    names = "a" + standbys
    writing = client(cluster, cluster.url(*names), writers=4)
    writing.sees("wrote", 0, number=40)
    faults.kill("primary", cluster.servers["a"])
    killed_at = time.monotonic()
    writing.sees("failed", killed_at)
    promoted_at = cluster.promote("b")
    faults.happened("standby promoted")
    first = writing.sees("wrote", promoted_at)[0]
    faults.wrong(resumed_too_late=int(first.at - promoted_at > RESUME_SECONDS))
    print(f"writes resumed {first.at - promoted_at:.2f} s after the promotion")  # noqa: T201  (with -s)

    cluster.servers["a"].start()
    faults.happened("old primary came back read-write")
    cluster.configure("a", "synchronous_standby_names", "")
    before = written(cluster, "a")
    for (pid,) in cluster.ask(
        "b", "SELECT pid FROM pg_stat_activity WHERE application_name = 'mistersmith web'"
    ):
        cluster.ask("b", "SELECT pg_terminate_backend(%s)", pid)
        faults.happened("connection terminated")
    writing.sees("wrote", time.monotonic(), number=40)
    newcomer = client(cluster, cluster.url(*names), writers=2)  # was not there at the promotion
    newcomer.sees("wrote", 0, number=20)
    for one in (writing, newcomer):
        count_writes(cluster, "b", one, faults)

    faults.kill("new primary", cluster.servers["b"])
    refused = "timeline 2 was seen"
    writing.sees("failed", time.monotonic(), refused)
    client(cluster, cluster.url(*names), writers=1).sees("failed", 0, refused)  # it knows from the file
    faults.wrong(written_to_the_old_primary=written(cluster, "a") - before)


def written(cluster, server):
    return cluster.ask(server, "SELECT count(*) FROM written")[0][0]


# -- replicas ------------------------------------------------------------------------------------------------------
def urls_of(cluster, *names):
    return {"REPLICA_URLS": ",".join(cluster.url(name) for name in names)}


def reads_of(client, alias, number=20, since=None):
    """Wait until reads have gone there."""
    return client.sees("read", time.monotonic() if since is None else since, alias, number)


@deep
def test_a_killed_replica_costs_no_reader_an_error_and_gets_reads_again_when_it_is_back(
    make_home, stack, client, faults
):
    cluster = Cluster(make_home, stack, "bc", sync=False)
    reading = client(cluster, cluster.url("a"), readers=4, **urls_of(cluster, "b", "c"))
    reads_of(reading, "replica_2")
    faults.kill("replica", cluster.servers["c"])
    killed_at = time.monotonic()
    reading.sees("read", killed_at, number=200)
    late = reading.those("read", killed_at + 5, "replica_2")
    cluster.servers["c"].start()
    reads_of(reading, "replica_2")
    faults.did(reads=len(reading.those("read")))
    faults.wrong(readers_failed=len(reading.those("failed")), sent_to_the_dead=len(late))


@deep
def test_a_paused_replica_holds_readers_up_for_seconds_only(make_home, stack, client, faults):
    cluster = Cluster(make_home, stack, "b", sync=False)
    reading = client(cluster, cluster.url("a"), readers=4, **urls_of(cluster, "b"))
    reads_of(reading, "replica")
    with cluster.paused("b"):
        faults.happened("replica paused")
        reads_of(reading, "default", 100)
    reads_of(reading, "replica")
    faults.did(reads=len(reading.those("read")))
    faults.wrong(readers_failed=len(reading.those("failed")))


@deep
def test_a_replica_that_lags_gets_no_reads_until_it_has_caught_up(make_home, stack, client, faults):
    cluster = Cluster(make_home, stack, "b", sync=False)
    limits = {"MISTERSMITH_REPLICA_MOST_LAG_SECONDS": "2"}
    busy = client(cluster, cluster.url("a"), writers=1, readers=2, **urls_of(cluster, "b"), **limits)
    reads_of(busy, "replica")
    cluster.configure("b", "recovery_min_apply_delay", "30s")
    faults.happened("replica 30 s late")
    began = reads_of(busy, "default", 50)[0].at
    late = busy.those("read", began + 3, "replica")
    cluster.configure("b", "recovery_min_apply_delay", "0")
    reads_of(busy, "replica")
    faults.did(reads=len(busy.those("read")))
    faults.wrong(readers_failed=len(busy.those("failed")), read_late_rows=len(late))


@deep
def test_a_replica_that_stays_with_the_old_primary_gets_no_reads(make_home, stack, client, faults):
    """`b` is promoted; `c` goes on following `a`, which lives and takes writes."""
    cluster = Cluster(make_home, stack, "bc", sync=False)
    busy = client(cluster, cluster.url("a", "b"), writers=1, readers=2, **urls_of(cluster, "c"))
    reads_of(busy, "replica")
    cluster.promote("b")
    faults.happened("standby promoted")
    began = reads_of(busy, "default", 50)[0].at
    stray = busy.those("read", began + 5, "replica")
    cluster.ask(
        "a", "INSERT INTO written SELECT gen_random_uuid(), 9 FROM generate_series(1, 1000)"
    )  # ahead of `b`
    reads_of(busy, "default", 50)
    cluster.servers["a"].stop()
    cluster.servers["c"].stop()
    faults.did(reads=len(busy.those("read")), writes=len(busy.those("wrote")))
    faults.wrong(read_from_the_wrong_timeline=len(stray))
