"""Whether a claim costs the same however much waits, and however much has ended: 100,000 to 5 million rows of a type.

Buffers are exact, whatever else the machine does. SECTIONS=pending or SECTIONS=finished measures one half (about a
minute each); LARGEST=1000000 goes no further than that.
"""

import os
import time
from typing import Any

from bench.frame import Report, percentile
from bench.frame.servers import installation
from bench.tasks import empty, sql, worker_id

BATCH = 10
CLAIMS = 200
LARGEST = int(os.environ.get("LARGEST", "5000000"))


def main() -> None:
    with Report("task_backlog") as report, installation(report):
        from tasks.leaves import leaf_of, register_types

        register_types()
        leaf = leaf_of("echo")
        for name in os.environ.get("SECTIONS", "pending,finished").split(","):
            {"pending": measure_pending, "finished": measure_finished}[name](report, leaf)


def measure_pending(report: Report, leaf: str) -> None:
    """One type with ever more ready tasks."""
    small = report.rows(100_000, quick=4_000)
    larger = {"pending_1m": (1_000_000, 10_000), "pending_5m": (5_000_000, 40_000)}
    empty()
    fill(leaf, small, "queued", 0)
    have, base = small, measure_claim(leaf)
    for name, (rows, quick) in larger.items():
        size = min(report.rows(rows, quick=quick), LARGEST)
        if size == have:
            break
        fill(leaf, size - have, "queued", have)
        have = size
        add(report, name, size, measure_claim(leaf), small, base)


def measure_finished(report: Report, leaf: str) -> None:
    """100,000 ready tasks, and ever more that have ended and stay where they are."""
    small, large = report.rows(100_000, quick=4_000), min(report.rows(5_000_000, quick=40_000), LARGEST)
    empty()
    fill(leaf, small, "queued", 0)
    base = measure_claim(leaf)
    empty()
    fill(leaf, large, "completed", 0)
    fill(leaf, small, "queued", large)
    add(report, "finished_5m", large, measure_claim(leaf), small, base)


def add(
    report: Report, name: str, rows: int, found: tuple[float, float], small: int, base: tuple[float, float]
) -> None:
    peer = f"{small} pending"
    report.add(f"claim_buffers_{name}", found[0], "buffers", rows)
    report.add_peer(f"claim_buffers_{name}", peer, base[0])
    report.add(f"claim_p50_{name}", found[1], "ms", rows)
    report.add_peer(f"claim_p50_{name}", peer, base[1])


def fill(leaf: str, rows: int, status: str, before: int) -> None:
    """Insert tasks a millisecond apart, `before` of which are there already; triggers are off, indexes are not."""
    ended = "now(), now()" if status == "completed" else "NULL, NULL"
    sql(
        "SET session_replication_role = replica",
        f"INSERT INTO {leaf} (task_type, status, payload, created_at, started_at, completed_at)"
        f" SELECT 'echo', '{status}', jsonb_build_object('n', n), now() - interval '1 day' + n * interval '1 ms',"
        f" {ended} FROM generate_series({before + 1}, {before + rows}) n",
        "RESET session_replication_role",
        f"VACUUM ANALYZE {leaf}",
        "CHECKPOINT",
    )


def measure_claim(leaf: str) -> tuple[float, float]:
    """Return the median buffers of a claim of 10, and its median milliseconds, of claims one after the other.

    The identities of the rows were not inserted: nothing in a claim looks at them. Buffers come last: the attempts'
    indexes would be of a single page each for the first backlog alone.
    """
    times = [time_of_claim() for _ in range(CLAIMS)]
    buffers = [buffers_of_claim() for _ in range(20)]
    return percentile(buffers, 50), percentile(times, 50)


def buffers_of_claim() -> float:
    from django.db import transaction

    from pg.direct import run_direct
    from tasks.turn import parameters_of, turn_of

    with transaction.atomic():
        statement = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {turn_of('echo')}"
        ((found,),) = run_direct(statement, parameters_of("echo", me(), (), BATCH))
        plan = found[0]["Plan"]
    return float(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def time_of_claim() -> float:
    from tasks.claim import claim

    who = me()
    began = time.perf_counter()
    items = claim("echo", who, limit=BATCH)
    spent = (time.perf_counter() - began) * 1000
    assert len(items) == BATCH
    return spent


_me: list[Any] = []


def me() -> Any:
    if not _me:
        _me.append(worker_id())
    return _me[0]


if __name__ == "__main__":
    main()
