"""Pools, router, metrics: what they cost beside the least that they could.

A check-out and SELECT 1 through Django and our pool, against psycopg's own pool of the same size with the same
check; the router's decision among two replicas; a scrape of /metrics with 400 partitions; what monitoring costs a core
by itself.
"""

import os
import threading
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
            measure_checkout(report, found.dsn, report.rows(20_000, 1_000))
            measure_router(report, report.rows(200_000, 10_000))
        for _ in range(report.runs(3)):
            measure_scrape(report, report.rows(20, 3))
        measure_own_load(report, report.rows(120, 5))


def add_partitions(number: int) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT partitions.create_time_partition(%s, current_date + 20 + n) FROM generate_series(1, %s) n",
            [PARTITIONED, number],
        )


# -- check-out ----------------------------------------------------------------------------------------------------
def measure_checkout(report: Report, dsn: str, rounds: int) -> None:
    """One thread takes a connection, asks, gives it back."""
    ours = timed(checkout_by_django, rounds)
    with ConnectionPool(
        dsn, min_size=1, max_size=5, check=ConnectionPool.check_connection, open=True
    ) as pool:
        pool.wait()
        bare = timed(lambda: checkout_bare(pool), rounds)
    report.add("checkout_select_1", ours * 1e6, "us", rounds, "check-out, SELECT 1, give back")
    report.add_peer("checkout_select_1", "psycopg's pool", bare * 1e6)


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
    from django.test import Client

    client = Client(headers={"host": "localhost"})
    times = []
    for _ in range(scrapes + 2):
        began = time.perf_counter()
        response = client.get("/metrics")
        times.append((time.perf_counter() - began) * 1000)
        assert response.status_code == 200, response.content
        assert b"mistersmith_metric_errors" in response.content
    partitions = count_partitions()
    report.add(
        "metrics_scrape_p95",
        percentile(times[2:], 95),
        "ms",
        partitions,
        f"{scrapes} scrapes; rows: partitions",
    )
    report.add("metrics_scrape_p50", percentile(times[2:], 50), "ms", partitions)


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
    PostgreSQL, in percent of one core."""
    from django.conf import settings

    from pg import watch

    settings.REPLICA_ALIASES = ["replica"]
    before = cpu_seconds()
    watch.ensure_watch()
    ended = threading.Event()
    threading.Timer(seconds, ended.set).start()
    turns = run_schedules(ended)
    watch.stop_watch()
    settings.REPLICA_ALIASES = []
    used = cpu_seconds() - before
    report.add(
        "own_load",
        100 * used / seconds,
        "% of a core",
        seconds,
        f"{turns} jobs in {seconds} s; rows: seconds",
    )


def run_schedules(ended: threading.Event) -> int:
    """Run each job of monitoring as often as its schedule says; return how many were run."""
    from config.celery import app
    from operators.schedules import declared_schedules

    app.loader.import_default_modules()

    due = {
        one.job: (0.0, one.every_seconds)
        for one in declared_schedules()
        if one.job.startswith("monitoring.") and one.every_seconds
    }
    turns, began = 0, time.monotonic()
    while not ended.is_set():
        for job, (at, every) in due.items():
            if time.monotonic() - began >= at:
                app.tasks[job]()
                due[job] = (at + every, every)
                turns += 1
        ended.wait(0.2)
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
