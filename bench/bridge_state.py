"""The state API and the cache beside raw limits and peers of the same run: `make bench ONLY=bridge_state`.

Everything runs on one machine with the figures' own readers and writers: nats-server with `sync_interval: always`, so a
put is on disk when it returns, and an fsync probe of the same minute.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.frame import Report, percentile
from bench.frame.machine import probe_fsync
from bench.frame.servers import Installation, installation

KEYS = 10_000
VALUE = {"text": "x" * 160, "n": 1}


def main() -> None:
    with Report("bridge_state") as report, installation(report) as servers:
        from bridge import setup

        setup.apply_plan(setup.make_plan(setup.read_found()))
        for _ in range(report.runs(5)):
            measure_hydration(report)
            asyncio.run(measure_state(report, servers.home))
            measure_cache(report, servers)


# -- hydration ----------------------------------------------------------------------------------------------
def measure_hydration(report: Report) -> None:
    """Rows to keys, beside the same client that puts the same values pipelined, with no PostgreSQL."""
    from agents.registry import register_agent
    from bridge.hydration import hydrate_agent
    from bridge.session import open_session

    number = report.rows(KEYS, 1_000)
    agent = register_agent("bench", "hydrated").pk
    write_rows(agent, number)
    with open_session() as db:
        stored, seconds = timed(lambda: hydrate_agent(db, agent).filled.stored)
    assert stored == number, stored
    report.add("hydrate", number / seconds, "keys/s", number)
    _, seconds = timed(lambda: put_pipelined(number))
    report.add_peer("hydrate", "pipelined puts", number / seconds)


def write_rows(agent: Any, number: int) -> None:
    """Write rows that wait for nobody, as after NATS lost everything."""
    import json

    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        cursor.execute(
            "INSERT INTO agents.state (agent_id, state_key, state_value)"
            " SELECT %s, 'key.' || n, %s::jsonb FROM generate_series(1, %s) n",
            [agent, json.dumps(VALUE), number],
        )
        cursor.execute("SET session_replication_role = origin")


def put_pipelined(number: int) -> None:
    import json

    from bridge.connection import call
    from bridge.publisher import Message

    data = json.dumps(VALUE).encode()
    messages = [Message(f"$KV.AGENT_STATE.raw.key.{n}", data) for n in range(number)]
    outcomes = call(lambda client: client.publisher.publish(messages, 30), 60)
    assert all(outcome.is_stored for outcome in outcomes)
    call(lambda client: client.jetstream.purge_stream("KV_AGENT_STATE", subject="$KV.AGENT_STATE.raw.>"))


# -- state --------------------------------------------------------------------------------------------------
async def measure_state(report: Report, home: Path) -> None:
    from uuid import uuid4

    from bridge.state_async import AsyncAgentState

    number = report.rows(5_000, 300)
    async with AsyncAgentState(uuid4(), epoch=1) as state:
        await state.put("key", VALUE)
        for name, work in (
            ("state_get", lambda: state.get("key")),
            ("state_put", lambda: state.put("key", VALUE)),
        ):
            times = [await timed_await(work) for _ in range(number)]
            report.add(f"{name}_p50", percentile(times, 50), "ms", number)
            report.add(f"{name}_p99", percentile(times, 99), "ms", number)
        report.add_peer("state_put_p99", "fsync probe p99", probe_fsync(home, 1_000)["p99_ms"])


async def timed_await(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    await work()
    return (time.perf_counter() - began) * 1_000


# -- cache --------------------------------------------------------------------------------------------------
def measure_cache(report: Report, servers: Installation) -> None:
    """Django's cache on QUERY_CACHE beside Django's own Redis backend on the Valkey of the same installation."""
    from django.core.cache import cache
    from django.core.cache.backends.redis import RedisCache

    number = report.rows(5_000, 300)
    peer = RedisCache(servers.valkey.server.url(database=9), {"TIMEOUT": 300})
    for ours, theirs in ((cache, peer),):
        for name in ("set", "get", "set_many", "get_many"):
            report.add(f"cache_{name}", run_cache(ours, name, number), "keys/s", number)
            report.add_peer(f"cache_{name}", "Django's Redis backend", run_cache(theirs, name, number))
    peer.clear()


def run_cache(cache: Any, name: str, number: int) -> float:
    """Return keys a second; many: a hundred at a time."""
    keys = [f"key.{n}" for n in range(number)]
    hundreds = [keys[start : start + 100] for start in range(0, number, 100)]
    works = {
        "set": lambda: [cache.set(key, VALUE) for key in keys],
        "get": lambda: [cache.get(key) for key in keys],
        "set_many": lambda: [cache.set_many(dict.fromkeys(some, VALUE)) for some in hundreds],
        "get_many": lambda: [cache.get_many(some) for some in hundreds],
    }
    _, seconds = timed(works[name])
    assert cache.get(keys[-1]) == VALUE
    return number / seconds


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


if __name__ == "__main__":
    main()
