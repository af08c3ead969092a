"""The pools as the settings have them, and as the servers see them."""

from typing import Any

import psycopg
from django.conf import settings
from django.db import DatabaseError, connections

from pg.budget import read_budget

SESSIONS = """
SELECT application_name AS application, count(*) AS connections,
       count(*) FILTER (WHERE state = 'active') AS active,
       count(*) FILTER (WHERE state LIKE 'idle in transaction%%') AS in_transaction,
       count(*) FILTER (WHERE wait_event_type = 'Lock') AS waiting_for_locks,
       max(extract(epoch FROM clock_timestamp() - backend_start))::float8 AS oldest_seconds
FROM pg_stat_activity
WHERE backend_type = 'client backend' AND datname = current_database() AND pid <> pg_backend_pid()
GROUP BY 1 ORDER BY 1
"""
SERVER = """
SELECT pg_is_in_recovery(),
       CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint())
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END,
       pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, '0/0')
"""


def read_pools() -> list[dict[str, Any]]:
    """Return one row per alias: its pool, the share of a process, where it leads. Asks no server."""
    rows = []
    for alias, entry in connections.settings.items():
        pool = settings.POOLS[entry["POOL"]]
        most, least = pool.share
        place = "shared with primary" if entry["IS_SHARED"] else place_of(entry)
        rows.append(
            {
                "alias": alias,
                "pool": pool.name,
                "total": f"{pool.maximum}/{pool.minimum}",
                "processes": pool.processes,
                "per_process": f"{most}/{least}",
                "role": entry["USER"],
                "server": place,
            }
        )
    return rows


def place_of(entry: dict[str, Any]) -> str:
    hosts, ports = str(entry["HOST"]).split(","), str(entry["PORT"]).split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    return ",".join(f"{host}:{port}".rstrip(":") for host, port in zip(hosts, ports, strict=True))


def read_servers() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a row per server (what it is, how far behind the primary), and the sessions on each by application. One
    that does not answer says why. Two queries per server."""
    servers: list[dict[str, Any]] = []
    sessions: list[dict[str, Any]] = []
    for alias, entry in connections.settings.items():
        place = place_of(entry)
        if entry["IS_SHARED"] or place in [row["server"] for row in servers]:
            continue
        row: dict[str, Any] = dict.fromkeys(("timeline", "lag_bytes"))
        row |= {"alias": alias, "server": place, "is": "", "problem": ""}
        try:
            with connections[alias].cursor() as cursor:
                cursor.execute(SERVER)
                is_standby, row["timeline"], lsn = cursor.fetchone()
                row |= {"is": "standby" if is_standby else "primary", "lsn": int(lsn or 0)}
                cursor.execute(SESSIONS, [])
                names = [column.name for column in cursor.description or ()]
                sessions += [
                    {"alias": alias, **dict(zip(names, one, strict=True))} for one in cursor.fetchall()
                ]
        except (DatabaseError, psycopg.Error) as error:
            row["problem"] = str(error).strip().splitlines()[0]
        servers.append(row)
    newest = servers[0].get("lsn")
    for row in servers:
        lsn = row.pop("lsn", None)
        if newest is not None and lsn is not None and row["is"] == "standby":
            row["lag_bytes"] = max(newest - lsn, 0)
    return servers, sessions


def arithmetic() -> tuple[str, bool]:
    """Return the sum of all pools against the server's limit, and whether it fits. One query."""
    budget = read_budget(connections["default"])
    return budget.arithmetic, budget.needed <= budget.usable
