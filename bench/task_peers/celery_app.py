"""Bare Celery: a task that does nothing, as its documentation begins. BENCH_BROKER names the broker."""

import os
import time

from celery import Celery

app = Celery("bench.task_peers.celery_app", broker=os.environ["BENCH_BROKER"])
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=4, task_default_queue="bare")


@app.task
def nothing(number: int) -> None:
    return None


@app.task
def note(called: float) -> None:
    """Append how long it took from the call to here, in milliseconds, to the file that BENCH_WAITS names."""
    with open(os.environ["BENCH_WAITS"], "a") as file:
        file.write(f"{(time.time() - called) * 1000}\n")
