"""The relay with nothing to do, and the moment at which another one takes over."""

import time

import psutil

from bench.frame import Report
from bench.frame.servers import Installation
from bench.sync.lag import update_raw
from bench.sync.stores import bridge_running, clear, connect, leads, make_rows, subject_of, wait_for_keys
from bench.task_peers.processes import running, wait_for

WARM_UP_SECONDS = 1.5


def measure(report: Report, found: Installation) -> None:
    clear(found)
    measure_idle(report, found)
    measure_handover(report, found)


def measure_idle(report: Report, found: Installation) -> None:
    """Percent of a core that a process with a leading relay takes; and the whole bridge."""
    seconds = report.rows(10, 3)
    with running(found.home / "relay.log", "-m", "bench.sync.relay_process") as process:
        wait_for(leads, 60)
        report.add("relay_idle_cpu", cpu_percent(process.pid, seconds), "%", seconds, "of a core")
    with bridge_running(found) as process:
        report.add(
            "bridge_idle_cpu", cpu_percent(process.pid, seconds), "%", seconds, "relay, flushers, readers"
        )


def cpu_percent(pid: int, seconds: float) -> float:
    time.sleep(WARM_UP_SECONDS)
    process = psutil.Process(pid)
    before, began = process.cpu_times(), time.perf_counter()
    time.sleep(seconds)
    after, took = process.cpu_times(), time.perf_counter() - began
    return (after.user + after.system - before.user - before.system) / took * 100


def measure_handover(report: Report, found: Installation) -> None:
    """kill -9 of the leading bridge, a write at once: from the kill until that write is in KV."""
    keys = make_rows(found, 1, 1)
    with bridge_running(found, "first") as first, bridge_running(found, "second"):
        wait_for(lambda: relay_sessions(found) == 2, 60)
        first.kill()
        killed_at = time.time()
        with connect(found) as session:
            update_raw(session, keys[0], 1)
        stored = wait_for_keys([subject_of(*keys[0])])
    report.add(
        "handover_seconds", max(stored.values()) - killed_at, "s", 1, "from kill -9 to the next value in KV"
    )


def relay_sessions(found: Installation) -> int:
    with connect(found) as session:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mistersmith relay'"
        return int(session.execute(query).fetchone()[0])  # type: ignore[index]
