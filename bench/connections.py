"""Pools, router, metrics: what they cost beside the least that they could.

A check-out and SELECT 1 through Django and our pool, against psycopg's own pool of the same size with the same
check; the router's decision among two replicas; a scrape of /metrics with 400 partitions; what monitoring costs a core
by itself.
"""

import os
import time
from typing import Any

from psycopg_pool import ConnectionPool

from bench.frame import Report, percentile
from bench.frame.servers import installation

PARTITIONED = "messages.log"


def main() -> None:
    os.environ["MISTERSMITH_PROCESS"] = "web"
    with Report("connections") as report, installation(report) as found:
        add_partitions(report.rows(400, 40))
        for _ in range(report.runs(5)):
            measure_checkout(report, found.dsn, report.rows(10_000, 1_000))
            measure_router(report, report.rows(100_000, 10_000))
        for _ in range(report.runs(3)):
            measure_scrape(report, report.rows(20, 3))
        measure_own_load(report, report.rows(100, 5))


def add_partitions(number: int) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT partitions.create_time_partition(%s, current_date + 20 + n) FROM generate_series(1, %s) n",
            [PARTITIONED, number],
        )


# -- check-out ----------------------------------------------------------------------------------------------------
def measure_checkout(report: Report, dsn: str, rounds: int) -> None:
    """One thread takes a connection, asks, gives it back: as busy threads do, whose connection has just come back, and
    as with one that lay idle, which is asked first. The peer asks each time."""
    from pg import pool as ours

    usual = ours.TRUSTED_SECONDS
    busy = timed(checkout_by_django, rounds)
    ours.TRUSTED_SECONDS = 0
    idle = timed(checkout_by_django, rounds)
    ours.TRUSTED_SECONDS = usual
    with ConnectionPool(
        dsn, min_size=1, max_size=5, check=ConnectionPool.check_connection, open=True
    ) as pool:
        pool.wait()
        bare = timed(lambda: checkout_bare(pool), rounds)
    for name, seconds, note in (
        ("checkout_select_1", busy, "check-out, SELECT 1, give back"),
        ("checkout_idle_select_1", idle, "the same, of a connection that lay idle"),
    ):
        report.add(name, seconds * 1e6, "us", rounds, note)
        report.add_peer(name, "psycopg's pool", bare * 1e6)


def checkout_by_django() -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.fetchone()
    connection.close()


def checkout_bare(pool: ConnectionPool[Any]) -> None:
    with pool.connection() as connection:
        connection.autocommit = True
        connection.execute("SELECT 1").fetchone()


def timed(work: Any, rounds: int) -> float:
    """Return the seconds of one round, after a tenth of them to warm up."""
    for _ in range(rounds // 10):
        work()
    began = time.perf_counter()
    for _ in range(rounds):
        work()
    return (time.perf_counter() - began) / rounds


# -- router ---------------------------------------------------------------------------------------------------------
def measure_router(report: Report, rounds: int) -> None:
    """Two replicas, both fit; the reader has written before, and both have replayed it."""
    from django.conf import settings

    from agents.models import Agent
    from pg import reads, routing
    from pg.replicas import Replica, Replicas

    two = Replicas([Replica("replica"), Replica("replica_2")], 10, 1 << 30)
    two.saw_primary(2_000, 1)
    for one in two.members:
        two.saw(one.alias, 2_000, 1, True)
    now = time.monotonic()
    two.clock = lambda: now  # they stay fresh for as long as it takes
    settings.REPLICA_ALIASES = ["replica", "replica_2"]
    usual = routing.replicas, routing.ensure_watch
    routing.replicas, routing.ensure_watch = (lambda: two), (lambda: None)  # type: ignore[assignment]
    router = routing.Router()
    try:
        with reads.unit(1_000), reads.from_replicas():
            seconds = timed(lambda: router.db_for_read(Agent), rounds)
    finally:
        routing.replicas, routing.ensure_watch = usual
        settings.REPLICA_ALIASES = []
    report.add("router_decision", seconds * 1e6, "us", rounds)


# -- metrics --------------------------------------------------------------------------------------------------------
def measure_scrape(report: Report, scrapes: int) -> None:
    """Each with what partitions' figures keep for a minute read anew; the sizes of tables, kept for fifteen, are read
    by one in sixty: that one is `metrics_scrape_cold`."""
    from django.test import Client

    from partitions import metrics

    client = Client(headers={"host": "localhost"})
    times = []
    for turn in range(scrapes + 3):
        metrics.health_at.cache_clear()
        if turn == 1:
            metrics.sizes_at.cache_clear()
        began = time.perf_counter()
        response = client.get("/metrics")
        times.append((time.perf_counter() - began) * 1000)
        assert response.status_code == 200, response.content
        assert b"mistersmith_metric_errors" in response.content
    partitions = count_partitions()
    report.add("metrics_scrape_cold", times[1], "ms", partitions, "with the sizes of all tables")
    report.add(
        "metrics_scrape_p95",
        percentile(times[3:], 95),
        "ms",
        partitions,
        f"{scrapes} scrapes; rows: partitions",
    )
    report.add("metrics_scrape_p50", percentile(times[3:], 50), "ms", partitions)


def count_partitions() -> int:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relkind = 'r'"
        )
        return int(cursor.fetchone()[0])


# -- what monitoring costs by itself ----------------------------------------------------------------------------------
def measure_own_load(report: Report, seconds: int) -> None:
    """The schedules of monitoring in real time, and the watch of one process on two servers: CPU of this process and of
    the servers, in percent of one core, less what they take when nothing is asked of them."""
    from django.conf import settings

    from pg import watch

    idle = load_of(lambda: time.sleep(seconds / 8))
    settings.REPLICA_ALIASES = ["replica"]
    watch.ensure_watch()
    run_schedules(0)  # imports, first connections and plans are no load
    turns: list[int] = []
    used = load_of(lambda: turns.append(run_schedules(seconds)))
    watch.stop_watch()
    settings.REPLICA_ALIASES = []
    report.add(
        "own_load",
        max(used - idle, 0.0),
        "% of a core",
        seconds,
        f"{turns[0]} jobs in {seconds} s; the servers alone {idle:.2f}; rows: seconds",
    )


def load_of(work: Any) -> float:
    """Return the CPU time that is used while `work` runs, in percent of one core."""
    used, began = cpu_seconds(), time.monotonic()
    work()
    return 100 * (cpu_seconds() - used) / (time.monotonic() - began)


def run_schedules(seconds: float) -> int:
    """Run each job of monitoring as often as its schedule says, the first time after that time; return how many were
    run. 0 seconds: each one once, at once."""
    from config.celery import app
    from operators.schedules import declared_schedules

    app.loader.import_default_modules()
    due = {
        one.job: (one.every_seconds if seconds else 0.0, one.every_seconds)
        for one in declared_schedules()
        if one.job.startswith("monitoring.") and one.every_seconds
    }
    turns, began = 0, time.monotonic()
    while not turns or time.monotonic() - began < seconds:
        for job, (at, every) in due.items():
            if time.monotonic() - began >= at:
                app.tasks[job]()
                due[job] = (at + every, every)
                turns += 1
        time.sleep(0.1)
    return turns


def cpu_seconds() -> float:
    """Return the CPU time of this process and of all its children's: PostgreSQL, NATS and the broker idle meanwhile."""
    import psutil

    total = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


if __name__ == "__main__":
    main()
