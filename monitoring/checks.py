"""What `doctor` looks at in monitoring, and the figures of /metrics that belong to no other room."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from django.db import connection

from monitoring.models import Activity, LockWait, ProcessPool, Replica, ReplicationSlot
from monitoring.registry import Finding, Sample, register_check, register_metric, shared
from pg.budget import read_budget

# metric: help, column of monitoring.read_server()
SERVER_METRICS = {
    "mistersmith_database_cache_hit_ratio": ("Blocks found in memory, 0 to 1", "cache_hit_ratio"),
    "mistersmith_database_oldest_transaction_seconds": (
        "Age of the oldest open transaction",
        "oldest_transaction_seconds",
    ),
    "mistersmith_database_xid_age": ("Transactions since the oldest database was frozen", "xid_age"),
    "mistersmith_database_wal_bytes": ("WAL written since the statistics began", "wal_bytes"),
    "mistersmith_database_checkpoints_timed": ("Checkpoints by time", "checkpoints_timed"),
    "mistersmith_database_checkpoints_requested": (
        "Checkpoints because WAL was full",
        "checkpoints_requested",
    ),
    "mistersmith_database_deadlocks": ("Deadlocks since the statistics began", "deadlocks"),
    "mistersmith_database_temporary_bytes": (
        "Written by sorts that did not fit into memory",
        "temporary_bytes",
    ),
}
# of each process: metric: help, value
POOL_METRICS: dict[str, tuple[str, Callable[[ProcessPool], float | None]]] = {
    "mistersmith_pool_maximum": ("Connections that a process's pool may have", lambda one: one.maximum),
    "mistersmith_pool_connections": ("Connections of a process's pool", lambda one: one.connections),
    "mistersmith_pool_idle_connections": ("Of them those that nobody uses", lambda one: one.idle),
    "mistersmith_pool_waiting_requests": ("Requests that wait for a connection", lambda one: one.waiting),
    "mistersmith_pool_waited_seconds": (
        "Time that requests waited since the process began",
        lambda one: one.waited_seconds,
    ),
    "mistersmith_pool_refused_requests": (
        "Requests that got none in time since the process began",
        lambda one: one.refused,
    ),
}
LONGEST_TRANSACTION_SECONDS = 600  # it keeps dead rows of every table from being cleaned up
LONGEST_LOCK_SECONDS = 30
MOST_RETAINED_BYTES = 10 << 30
WRAPAROUND_XIDS = 1_000_000_000  # half of what PostgreSQL has; it vacuums by force long before


def register() -> None:
    register_check("monitoring.connections", look_at_connections)
    register_check("monitoring.pools", look_at_pools)
    register_check("monitoring.statements", look_at_statements)
    register_check("monitoring.transactions", look_at_transactions)
    register_check("monitoring.locks", look_at_locks)
    register_check("monitoring.wraparound", look_at_wraparound)
    register_check("monitoring.slots", look_at_slots)
    for name, (help, column) in SERVER_METRICS.items():
        register_metric(name, help, partial(read_server, column))
    register_metric("mistersmith_replica_lag_bytes", "WAL that a standby has not replayed", read_replica_lag)
    register_metric("mistersmith_slot_retained_bytes", "WAL that a replication slot keeps", read_slots)
    for name, (help, read) in POOL_METRICS.items():
        register_metric(name, help, partial(read_process_pools, read))
    register_metric(
        "mistersmith_database_connections", "Connections to PostgreSQL by pool and state", read_connections
    )


def pools() -> list[dict[str, Any]]:
    """Return one row per application, first the one of the whole server, named (server)."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM monitoring.check_connection_pool_health()")
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def look_at_connections() -> Iterator[Finding]:
    """The server has connections to spare, and no pool holds transactions open."""
    for pool in pools():
        if pool["health_status"] != "healthy":
            yield Finding(
                False,
                f"{pool['pool_name']}: {'; '.join(pool['recommendations'])}",
                "run `SELECT * FROM monitoring.connection_stats`: end what is stuck, or raise max_connections",
            )
        elif pool["pool_name"] == "(server)":
            yield Finding(
                True, f"{pool['total_connections']} of {pool['max_connections']} connections in use"
            )


def look_at_pools() -> Iterator[Finding]:
    """All pools together fit into what the server has."""
    budget = read_budget(connection)
    hint = "raise max_connections, or make a pool smaller (docs/pools.md)"
    yield Finding(budget.needed <= budget.usable, budget.arithmetic, hint)


def look_at_statements() -> Iterator[Finding]:
    """pg_stat_statements is there; without it index suggestions find nothing, which is no fault."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT extversion FROM pg_extension WHERE extname = 'pg_stat_statements'")
        row = cursor.fetchone()
    if row is None:
        yield Finding(
            True,
            "pg_stat_statements is not installed: no index suggestions",
            "preload it and let a superuser run CREATE EXTENSION pg_stat_statements",
        )
    else:
        yield Finding(True, f"pg_stat_statements {row[0]}")


def read_connections() -> Iterator[tuple[dict[str, str], float]]:
    for pool in pools():
        for state in ("active", "idle"):
            yield {"pool": pool["pool_name"], "state": state}, pool[f"{state}_connections"]
        yield {"pool": pool["pool_name"], "state": "idle in transaction"}, pool["idle_in_transaction"]


@shared
def living_pools() -> list[ProcessPool]:
    return list(ProcessPool.objects.order_by("process", "host", "pid", "pool"))


def read_process_pools(value: Callable[[ProcessPool], float | None]) -> Iterator[Sample]:
    for one in living_pools():
        if (number := value(one)) is not None:
            whose = {"process": one.process, "host": one.host, "pid": str(one.pid), "pool": one.pool}
            yield whose, number


# -- what the server does now -------------------------------------------------------------------------------
def look_at_transactions() -> Iterator[Finding]:
    """No transaction is open for so long that vacuum cannot clean up behind it. Dumps are let be."""
    recovery = ("mistersmith backup", "mistersmith restore", "mistersmith recovery")
    old = Activity.objects.filter(transaction_seconds__gt=LONGEST_TRANSACTION_SECONDS)
    found = old.exclude(application_name__in=recovery).order_by("-transaction_seconds")[:10]
    for session in found:
        yield Finding(
            False,
            f"process {session.pid} ({session.application_name}, {session.state}) has a transaction open for"
            f" {session.transaction_seconds:.0f} s",
            "end it: admin, Server, Sessions",
        )
    if not found:
        yield Finding(True, f"no transaction is open for more than {LONGEST_TRANSACTION_SECONDS} s")


def look_at_locks() -> Iterator[Finding]:
    waiting = LockWait.objects.filter(waiting_seconds__gt=LONGEST_LOCK_SECONDS)
    found = list(waiting.order_by("-waiting_seconds")[:10])
    for line in found:
        yield Finding(
            False,
            f"process {line.pid} ({line.application_name}) waits for {line.object} since {line.waiting_seconds:.0f} s",
            "see who holds it: admin, Server, Lock waits",
        )
    if not found:
        yield Finding(True, f"nobody waits for a lock for more than {LONGEST_LOCK_SECONDS} s")


def look_at_wraparound() -> Iterator[Finding]:
    age = server_row()["xid_age"]
    yield Finding(
        age < WRAPAROUND_XIDS,
        f"{age:,} transactions since the oldest database was frozen",
        "VACUUM (FREEZE) the tables with the highest age: admin, Server, Tables; does autovacuum run?",
    )


def look_at_slots() -> Iterator[Finding]:
    """A slot without a reader keeps WAL until the disk is full."""
    slots = list(ReplicationSlot.objects.order_by("slot_name"))
    for slot in slots:
        is_fine = slot.retained_bytes < MOST_RETAINED_BYTES and slot.wal_status != "lost"
        yield Finding(
            is_fine,
            f"slot {slot.slot_name} keeps {slot.retained_bytes >> 20} MB of WAL"
            f"{'' if slot.is_active else ', nobody reads it'}",
            f"start its reader, or SELECT pg_drop_replication_slot('{slot.slot_name}')",
        )
    if not slots:
        yield Finding(True, "no replication slots")


@shared
def server_row() -> dict[str, Any]:
    """Return monitoring.read_server() by column. One query."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM monitoring.read_server()")
        names = [column.name for column in cursor.description or ()]
        return dict(zip(names, cursor.fetchone(), strict=True))


def read_server(column: str) -> Iterator[Sample]:
    value = server_row()[column]
    if value is not None:
        yield {}, float(value)


def read_replica_lag() -> Iterator[Sample]:
    for replica in Replica.objects.exclude(lag_bytes=None):
        yield {"replica": f"{replica.application_name} {replica.pid}"}, float(replica.lag_bytes or 0)


def read_slots() -> Iterator[Sample]:
    for slot in ReplicationSlot.objects.all():
        yield {"slot": slot.slot_name}, slot.retained_bytes
