"""A transaction that somebody holds open: what was updated since cannot be cleaned up.

100 tasks a second over ten types go on meanwhile, through the same claim and finish as a worker's; procrastinate's own
functions do the same at the same time on a database of their own, with a transaction held as well.

HELD_SECONDS=600 is the full form of ten minutes; 60 without it. The last tenth is held against the first.
"""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg

from bench.frame import Report, percentile
from bench.frame.servers import installation
from bench.task_peers.processes import running
from bench.tasks import empty, procrastinate_database, worker_id

TYPES = [f"held.{n}" for n in range(10)]
RATE = 100
ALARM = "a transaction is held open"
ALARM_SECONDS = 300


def main() -> None:
    with Report("task_held") as report, installation(report) as found:
        from tasks.leaves import register_leaf
        from tasks.policy import Policy

        for name in TYPES:
            register_leaf(name, Policy(), Policy().options())
        seconds = int(os.environ.get("HELD_SECONDS", "60")) if not report.is_quick else 6
        empty()
        peer = procrastinate_database(found)
        with (
            running(found.home / "bridge.log", "manage.py", "bridge", "run"),
            held_open(found.dsn),
            held_open(peer),
            ThreadPoolExecutor(2) as both,
        ):
            their_work = both.submit(work, seconds, defer_one(peer), fetch_one(peer))
            ours = both.submit(work, seconds, enqueue_one, claim_one()).result()
            theirs = their_work.result()
            note = "" if seconds > ALARM_SECONDS else "threshold lowered"
            report.add("alarm_raised", float(is_alarm_raised(seconds)), "of 1", 1, note=note)
        tell(report, seconds, ours, theirs)


@contextmanager
def held_open(dsn: str) -> Any:
    """A session that has looked at something in a transaction, and then does nothing."""
    with psycopg.connect(dsn) as session:
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        session.execute("SELECT count(*) FROM pg_class")
        yield


def work(
    seconds: int, put_in: Callable[[int], None], take_out: Callable[[int], float | None]
) -> list[tuple[float, float]]:
    """Put in RATE tasks a second and take them out meanwhile; return (when it was taken, milliseconds it took) each."""
    taken: list[tuple[float, float]] = []
    is_over = threading.Event()
    began = time.perf_counter()

    def consume() -> None:
        number = 0
        while not is_over.is_set() or number < seconds * RATE:
            spent = take_out(number)
            if spent is None:
                if is_over.is_set() and time.perf_counter() - began > seconds * 2 + 30:
                    return
                time.sleep(0.002)
                continue
            taken.append((time.perf_counter() - began, spent))
            number += 1

    thread = threading.Thread(target=consume)
    thread.start()
    for number in range(seconds * RATE):
        put_in(number)
        time.sleep(max(0.0, began + (number + 1) / RATE - time.perf_counter()))
    is_over.set()
    thread.join()
    return taken


# -- ours -------------------------------------------------------------------------------------------------------
def enqueue_one(number: int) -> None:
    from tasks.enqueue import enqueue

    enqueue(TYPES[number % len(TYPES)], {"n": number})


def claim_one() -> Callable[[int], float | None]:
    from tasks.claim import Ended, claim, finish_many

    me = worker_id()

    def take(number: int) -> float | None:
        name = TYPES[number % len(TYPES)]
        began = time.perf_counter()
        items = claim(name, me)
        spent = (time.perf_counter() - began) * 1000
        finish_many([Ended(item) for item in items])
        return spent if items else None

    return take


def is_alarm_raised(seconds: int) -> bool:
    """Judge the alarm as its job does each minute; a run that is shorter than its threshold lowers that."""
    from django.utils import timezone

    from monitoring.alarms import evaluate_rules
    from monitoring.models import AlarmRule

    rule = AlarmRule.objects.filter(name=ALARM)
    if seconds <= ALARM_SECONDS:
        rule.update(warning=seconds / 2)
    evaluate_rules(timezone.now())
    return str(rule.get().state) != "ok"


# -- procrastinate ----------------------------------------------------------------------------------------------
def defer_one(dsn: str) -> Callable[[int], None]:
    """Through its own SQL function, as its client does."""
    session = psycopg.connect(dsn, autocommit=True)

    def put(number: int) -> None:
        session.execute(
            "SELECT procrastinate_defer_jobs_v1(ARRAY[ROW(%s, 'nothing', 0, NULL, NULL, %s::jsonb, NULL)"
            "::procrastinate_job_to_defer_v1])",
            [f"q{number % len(TYPES)}", '{"number": 1}'],
        )

    return put


def fetch_one(dsn: str) -> Callable[[int], float | None]:
    session = psycopg.connect(dsn, autocommit=True)
    worker = session.execute("SELECT worker_id FROM procrastinate_register_worker_v1()").fetchone()[0]  # type: ignore[index]

    def take(number: int) -> float | None:
        began = time.perf_counter()
        row = session.execute(
            "SELECT id FROM procrastinate_fetch_job_v2(%s::varchar[], %s)",
            [[f"q{number % len(TYPES)}"], worker],
        ).fetchone()
        spent = (time.perf_counter() - began) * 1000
        if row is None or row[0] is None:
            return None
        session.execute("SELECT procrastinate_finish_job_v1(%s, 'succeeded', false)", [row[0]])
        return spent

    return take


# -- figures ----------------------------------------------------------------------------------------------------
def tell(
    report: Report, seconds: int, ours: list[tuple[float, float]], theirs: list[tuple[float, float]]
) -> None:
    rows = seconds * RATE
    report.settings["held_seconds"] = seconds
    report.add("throughput_kept", len(ours) / max(seconds, ours[-1][0]), "tasks/s", rows)
    report.add_peer("throughput_kept", "asked for", float(RATE))
    first, last = ends(ours, seconds)
    report.add("claim_p50", last, "ms", rows, note="last tenth beside the first")
    report.add_peer("claim_p50", "the first tenth", first)
    their_first, their_last = ends(theirs, seconds)
    report.add("procrastinate_fetch_p50", their_last, "ms", rows, note="last tenth beside the first")
    report.add_peer("procrastinate_fetch_p50", "the first tenth", their_first)


def ends(taken: list[tuple[float, float]], seconds: int) -> tuple[float, float]:
    first = [spent for when, spent in taken if when < seconds / 10]
    last = [spent for when, spent in taken if when > seconds * 0.9]
    return percentile(first, 50), percentile(last, 50)


if __name__ == "__main__":
    main()
