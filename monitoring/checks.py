"""What `doctor` looks at in monitoring, and the figures of /metrics that belong to no other room."""

from collections.abc import Iterator
from typing import Any

from django.db import connection

from monitoring.registry import Finding, register_check, register_metric


def register() -> None:
    register_check("monitoring.connections", look_at_connections)
    register_check("monitoring.statements", look_at_statements)
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
