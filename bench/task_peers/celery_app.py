"""Bare Celery: a task that does nothing, as its documentation begins. BENCH_BROKER names the broker.

Of each task the worker notes when it ended, in a file that BENCH_ENDS names: eight bytes per task, by its number, in
memory that the processes share. What the broker still holds would not say it: workers fetch far ahead.
"""

import mmap
import os
import time
from functools import cache
from pathlib import Path

from celery import Celery

app = Celery("bench.task_peers.celery_app", broker=os.environ["BENCH_BROKER"])
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=4, task_default_queue="bare")


@app.task
def nothing(number: int) -> None:
    ends()[number] = time.time()


@cache
def ends() -> memoryview:
    with open(os.environ["BENCH_ENDS"], "r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 0)).cast("d")


def read_ends(path: Path) -> list[float]:
    """Return when each task that has ended did, in seconds since 1970."""
    return [moment for moment in memoryview(path.read_bytes()).cast("d") if moment]


@app.task
def note(called: float) -> None:
    """Append how long it took from the call to here, in milliseconds, to the file that BENCH_WAITS names."""
    with open(os.environ["BENCH_WAITS"], "a") as file:
        file.write(f"{(time.time() - called) * 1000}\n")
