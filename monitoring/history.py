"""Snapshots of the server, kept for trends: the load each minute, sizes each hour. Reading them makes series."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from django.conf import settings
from django.db import connection

from monitoring.checks import pools
from monitoring.models import Snapshot, Table
from pg.uuid7 import uuid7_time

MOST_TABLES = 200
# counters since the statistics began: the difference of two snapshots is what happened between them
SERVER = """
SELECT s.cache_hit_ratio, s.wal_bytes, s.xid_age, s.oldest_transaction_seconds, s.deadlocks, s.temporary_bytes,
       s.checkpoints_timed, s.checkpoints_requested, d.xact_commit + d.xact_rollback AS transactions,
       d.active_time + d.idle_in_transaction_time AS busy_ms,
       (SELECT COALESCE(max(lag_bytes), 0)::bigint FROM monitoring.replicas) AS replica_lag_bytes
FROM monitoring.read_server() s, pg_stat_database d WHERE d.datname = current_database()
"""


def snap_load() -> Snapshot:
    """Keep what the server and each application's connections do now. Two queries and an insert."""
    with connection.cursor() as cursor:
        cursor.execute(SERVER)
        names = [column.name for column in cursor.description or ()]
        server = dict(zip(names, cursor.fetchone(), strict=True))
    busy = [
        {
            "pool": row["pool_name"],
            "connections": row["total_connections"],
            "busy": row["active_connections"] + row["idle_in_transaction"],
        }
        for row in pools()
    ]
    return Snapshot.objects.create(kind=Snapshot.Kind.LOAD, data={"server": server, "pools": busy})


def snap_growth() -> Snapshot:
    """Keep the size and the rows of the largest tables, partitions added up. Two queries and an insert."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_database_size(current_database())")
        (database_bytes,) = cursor.fetchone()
    rows = Table.objects.order_by("-total_bytes").values_list("table_name", "total_bytes", "row_estimate")
    tables = {name: [size, number] for name, size, number in rows[:MOST_TABLES]}
    return Snapshot.objects.create(
        kind=Snapshot.Kind.GROWTH, data={"tables": tables, "database_bytes": database_bytes}
    )


# -- series ---------------------------------------------------------------------------------------------------
def read_since(kind: str, since: datetime) -> Iterator[tuple[datetime, dict[str, Any]]]:
    """Yield moment and data of the snapshots since then, oldest first. One query, of those days' partitions only."""
    rows = Snapshot.objects.using(settings.ANALYTICS_ALIAS).filter(kind=kind).between(since, None)
    rows = rows.order_by("snapshot_id")
    for snapshot_id, data in rows.values_list("snapshot_id", "data").iterator():
        yield uuid7_time(snapshot_id), data


Points = list[tuple[datetime, float]]


def connections_by_pool(now: datetime, span: timedelta) -> dict[str, Points]:
    """Return the busy connections over time of each pool (application) that was ever busy."""
    series: dict[str, Points] = {}
    for at, data in read_since(Snapshot.Kind.LOAD, now - span):
        for pool in data["pools"]:
            series.setdefault(pool["pool"], []).append((at, pool["busy"]))
    return {name: points for name, points in series.items() if any(busy for _, busy in points)}


def figures(now: datetime, span: timedelta, name: str) -> Points:
    """Return one figure of the server over time."""
    return [
        (at, float(data["server"][name]))
        for at, data in read_since(Snapshot.Kind.LOAD, now - span)
        if data["server"].get(name) is not None
    ]


def rates(points: Points) -> Points:
    """Return what a counter grew by per second between two points; a counter that began anew is a gap."""
    return [
        (after, (high - low) / (after - before).total_seconds())
        for (before, low), (after, high) in pairwise(points)
        if high >= low and after > before
    ]


def growth(now: datetime, span: timedelta, most: int = 5) -> dict[str, Points]:
    """Return the bytes over time of the tables that grew most."""
    series: dict[str, Points] = {}
    for at, data in read_since(Snapshot.Kind.GROWTH, now - span):
        for name, (size, _rows) in data["tables"].items():
            series.setdefault(name, []).append((at, size))
    grown = sorted(series, key=lambda name: series[name][-1][1] - series[name][0][1], reverse=True)
    return {name: series[name] for name in grown[:most]}


def database_growth(now: datetime, span: timedelta) -> Points:
    """Return the bytes of the whole database over time."""
    found = read_since(Snapshot.Kind.GROWTH, now - span)
    return [(at, data["database_bytes"]) for at, data in found]
