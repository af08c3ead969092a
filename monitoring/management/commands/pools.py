"""manage.py pools: status."""

from typing import Any

from monitoring.pools import arithmetic, read_pools, read_servers
from operators.command import Answer, OperatorCommand


class Command(OperatorCommand):
    help = "Connection pools: what the settings say, and what the servers see. Changes nothing."

    def add_verbs(self) -> None:
        self.add_verb(
            "status", status, "pools, servers with lag, connections by application; exit 1 when one is away"
        )


def status(**_: Any) -> Answer:
    pools = read_pools()
    servers, sessions = read_servers()
    problems = [f"{row['alias']} ({row['server']}): {row['problem']}" for row in servers if row["problem"]]
    items = [*map(pool_row, pools), *map(server_row, servers), *map(session_row, sessions)]
    if not servers[0]["problem"]:
        told, fits = arithmetic()
        items.append(make_row("sum", "(server)", servers[0]["server"], "", told))
        problems += [] if fits else [f"the pools may need more connections than the server has: {told}"]
    return Answer(items, {"pools": len(pools), "servers": len(servers)}, problems, ok=not problems)


def make_row(kind: str, name: str, server: str, connections: Any, detail: str) -> dict[str, Any]:
    return {"kind": kind, "name": name, "server": server, "connections": connections, "detail": detail}


def pool_row(row: dict[str, Any]) -> dict[str, Any]:
    detail = f"{row['pool']}, as {row['role']}: {row['per_process']} for each of {row['processes']} processes"
    return make_row("pool", row["alias"], row["server"], row["total"], detail)


def server_row(row: dict[str, Any]) -> dict[str, Any]:
    behind = f", {row['lag_bytes']:,} bytes behind" if row["lag_bytes"] is not None else ""
    detail = row["problem"] or f"{row['is']} on timeline {row['timeline']}{behind}"
    return make_row("server", row["alias"], row["server"], "", detail)


def session_row(row: dict[str, Any]) -> dict[str, Any]:
    detail = f"{row['active']} active, {row['in_transaction']} idle in transaction"
    detail += f", {row['waiting_for_locks']} wait for locks" if row["waiting_for_locks"] else ""
    return make_row("sessions", row["application"] or "(unnamed)", row["alias"], row["connections"], detail)
