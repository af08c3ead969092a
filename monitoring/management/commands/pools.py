"""manage.py pools: status, suggest."""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone

from monitoring.history import read_since
from monitoring.models import ProcessPool, Snapshot
from monitoring.pools import arithmetic, read_pools, read_servers
from monitoring.sizing import HEADROOM, Suggestion, measure_load, suggest
from operators.command import Answer, OperatorCommand
from pg.errors import Refused


class Command(OperatorCommand):
    help = "Connection pools: what the settings say, and what the servers see. Changes nothing."

    def add_verbs(self) -> None:
        parser = self.add_verb(
            "suggest", suggest_sizes, "sizes from what was measured: Little's law, with its inputs"
        )
        parser.add_argument("--hours", type=int, default=24, help="how far back to look (24)")
        self.add_verb(
            "status", status, "pools, servers with lag, connections by application; exit 1 when one is away"
        )


def status(**_: Any) -> Answer:
    pools = read_pools()
    servers, sessions = read_servers()
    problems = [f"{row['alias']} ({row['server']}): {row['problem']}" for row in servers if row["problem"]]
    items = [*map(pool_row, pools), *map(server_row, servers), *map(session_row, sessions)]
    if not servers[0]["problem"]:
        items += map(process_row, ProcessPool.objects.order_by("process", "host", "pid", "pool"))
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


def process_row(one: ProcessPool) -> dict[str, Any]:
    detail = f"{one.idle} idle, {one.waiting} wait; {one.requests} requests waited {one.waited_seconds:.1f} s"
    detail += f", {one.refused} got none in time" if one.refused else ""
    size = str(one.connections) if one.maximum is None else f"{one.connections}/{one.maximum}"
    detail = "sessions of its own, no pool" if one.maximum is None else detail
    return make_row("process", f"{one.process} {one.host}:{one.pid}", one.pool, size, detail)


def suggest_sizes(hours: int, **_: Any) -> Answer:
    """Little's law over the span: connections in use = transactions per second x seconds that each holds one."""
    if not 1 <= hours <= 24 * 90:
        raise Refused(f"--hours {hours}: must be 1 to {24 * 90}", "snapshots are kept for 90 days")
    seen = list(read_since(Snapshot.Kind.LOAD, timezone.now() - timedelta(hours=hours)))
    configured = {name: (pool.maximum, pool.processes) for name, pool in settings.POOLS.items()}
    items = [suggestion_row(one) for one in suggest(seen, configured)]
    load = measure_load(seen)
    warnings = [] if load is None else [
        f"Little's law, whole database: {load.transactions_per_second:.1f} transactions/s x"
        f" {load.seconds_per_transaction * 1000:.2f} ms = {load.busy:.2f} connections in use on average;"
        f" suggested: the peak of {len(seen)} looks x {HEADROOM}, shared out evenly"
    ]  # fmt: skip
    if load is None:
        warnings.append(
            f"{len(seen)} looks in {hours} h tell no load: does beat run? (schedule `monitoring: load`)"
        )
    return Answer(items, {"looks": len(seen)}, warnings)


def suggestion_row(one: Suggestion) -> dict[str, Any]:
    least = min(one.maximum, settings.POOLS[one.pool].minimum)
    return {
        "pool": one.pool,
        "busy_mean": round(one.mean, 2),
        "busy_peak": one.peak,
        "looks": one.samples,
        "configured": one.configured,
        "suggested": one.maximum,
        "verdict": one.verdict,
        "setting": f"MISTERSMITH_POOL_{one.pool.upper()}={one.maximum}/{least}",
    }
