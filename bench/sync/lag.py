"""From a commit to the value in KV, with the bridge at work beside the writers, on the same cores.

The commit is the moment at which the writer has its answer; the value is there when nats-server stored it (its own
timestamp, the same clock). Each sample is a key of its own.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from django.db import connection, connections

from agents.models import AgentState
from bench.frame import Report, percentile
from bench.frame.servers import Installation
from bench.sync.stores import (
    DRAIN_SECONDS,
    bridge_running,
    clear,
    connect,
    drain,
    make_rows,
    subject_of,
    wait_for_keys,
)
from bench.task_peers.processes import wait_for
from bridge.connection import call
from bridge.delivery import WAKE_SUBJECT

THREADS = 6
BULK_ROWS = 10_000
Key = tuple[UUID, str]


def measure(report: Report, found: Installation) -> None:
    samples = {"50": report.rows(400, 100), "500": report.rows(2_000, 250), "raw": report.rows(300, 60)}
    clear(found)
    keys = make_rows(found, 20, 500)
    bulk = make_rows(found, 20, report.rows(BULK_ROWS, 2_000) // 20)
    warm_up = take(keys, 100)
    with bridge_running(found):
        offer(found, warm_up, 100, save)
        for name, rate in (("50", 50), ("500", 500)):
            add(report, f"save_{name}", offer(found, take(keys, samples[name]), rate, save))
            drain(found)
        times = offer(found, take(keys, samples["raw"]), 50, update_raw)
        add(report, "raw_sql", times, "no wake-up; polls every 50 ms")
        report.add_peer("raw_sql_p99", "poll interval", poll_ms())
        drain(found)
        add(
            report,
            "save_beside_bulk",
            beside_bulk(found, keys, bulk),
            f"beside {len(bulk):,} rows in one update",
        )


def add(report: Report, name: str, times: list[float], note: str = "") -> None:
    for percent in (50, 99):
        report.add(f"{name}_p{percent}", percentile(times, percent), "ms", len(times), note)


def take(keys: list[Key], number: int) -> list[Key]:
    """Take keys off the list, from all over it."""
    step = max(1, len(keys) // number)
    taken = keys[::step][:number]
    for key in taken:
        keys.remove(key)
    return taken


def poll_ms() -> float:
    from django.conf import settings

    return float(settings.BRIDGE_POLL_MS)


# -- writers ----------------------------------------------------------------------------------------------------
Write = Callable[[Any, Key, int], float]


def save(session: Any, key: Key, number: int) -> float:
    """Save as Django code does; return the moment of the commit, which is before the signals."""
    state = STATES[key]
    state.state_value = {**state.state_value, "n": number}
    with noting_updates() as committed:
        state.save()
    return committed[0]


STATES: dict[Key, AgentState] = {}


@contextmanager
def noting_updates() -> Iterator[list[float]]:
    noted: list[float] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        result = execute(sql, params, many, context)
        if sql.startswith("UPDATE"):
            noted.append(time.time())
        return result

    with connection.execute_wrapper(note):
        yield noted


def update_raw(session: Any, key: Key, number: int) -> float:
    session.execute(
        "UPDATE agents.state SET state_value = jsonb_set(state_value, '{n}', %s::jsonb)"
        " WHERE agent_id = %s AND state_key = %s",
        [str(number), *key],
    )
    return time.time()


def offer(found: Installation, keys: list[Key], rate: float, write: Write) -> list[float]:
    """Write each key at its moment, however long those before took; return the lags in milliseconds."""
    committed: dict[Key, float] = {}
    load_states(keys)
    began = time.perf_counter() + 0.1

    def run(first: int) -> None:
        with connect(found) as session:
            for number in range(first, len(keys), THREADS):
                time.sleep(max(0.0, began + number / rate - time.perf_counter()))
                committed[keys[number]] = write(session, keys[number], number + 1)
        connections.close_all()

    run_threads(run)
    return lags(committed)


def run_threads(run: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def load_states(keys: list[Key]) -> None:
    wanted = set(keys)
    for state in AgentState.objects.filter(agent__in={agent for agent, _ in keys}):
        if (key := (state.agent_id, state.state_key)) in wanted:
            STATES[key] = state


def lags(committed: dict[Key, float]) -> list[float]:
    stored = wait_for_keys([subject_of(*key) for key in committed])
    return [(stored[subject_of(*key)] - at) * 1_000 for key, at in committed.items()]


# -- beside a bulk update -----------------------------------------------------------------------------------------
def beside_bulk(found: Installation, keys: list[Key], bulk: list[Key]) -> list[float]:
    """Return the lags of saves, 100 a second, from the start of one large update until the relay has brought it."""
    committed: dict[Key, float] = {}
    is_over, mine = threading.Event(), take(keys, len(keys))
    load_states(mine)
    began = time.perf_counter()

    def run(first: int) -> None:
        for number in range(first, len(mine), THREADS):
            time.sleep(max(0.0, began + number / 100 - time.perf_counter()))
            if is_over.is_set():
                break
            committed[mine[number]] = save(None, mine[number], number + 1)
        connections.close_all()

    writers = threading.Thread(target=run_threads, args=(run,))
    writers.start()
    agents = list({agent for agent, _ in bulk})
    AgentState.objects.filter(agent__in=agents).update(state_value={"bulk": True})
    call(lambda client: client.nc.publish(WAKE_SUBJECT))
    drain_to(found, newest_id(found))
    is_over.set()
    writers.join()
    drain(found)
    return lags(committed)


def newest_id(found: Installation) -> int:
    with connect(found) as session:
        return int(session.execute("SELECT max(outbox_id) FROM bridge.outbox").fetchone()[0])  # type: ignore[index]


def drain_to(found: Installation, newest: int) -> None:
    """Wait until the rows of the large update have gone. A look costs PostgreSQL next to nothing."""
    with connect(found) as session:
        query = "SELECT NOT EXISTS (SELECT FROM bridge.outbox WHERE outbox_id <= %s)"
        wait_for(lambda: bool(session.execute(query, [newest]).fetchone()[0]), DRAIN_SECONDS)  # type: ignore[index]
