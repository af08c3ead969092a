"""The task engine beside bare Celery, procrastinate, COPY and plain SKIP LOCKED, in one run on the same servers.

SECTIONS=core,drain measures those alone, and then the file holds no others.
"""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product, repeat
from pathlib import Path
from typing import Any

from bench.frame import Report, percentile
from bench.frame.servers import Installation, installation
from bench.task_peers import plain
from bench.task_peers.processes import PEERS, ROOT, peer_path, running, wait_for

RUNS = 3
DRAIN_LOOK_SECONDS = 0.25
ONCE = ("features",)  # it repeats itself


def main() -> None:
    with Report("tasks") as report, installation(report) as found:
        from tasks.leaves import leaf_of, register_types

        register_types()
        leaf = leaf_of("echo")
        sections: dict[str, Callable[[], None]] = {
            "core": lambda: measure_core(report, found, leaf),
            "enqueue": lambda: measure_enqueue(report, found, leaf),
            "workflow": lambda: measure_workflow(report),
            "drain": lambda: measure_drain(report, found),
            "latency": lambda: measure_latency(report, found),
            "awa": lambda: measure_awa(report, found),
            "features": lambda: measure_features(report, leaf),
        }
        wanted = os.environ.get("SECTIONS", ",".join(sections)).split(",")
        for number in range(report.runs(RUNS)):
            for name in wanted:
                if number == 0 or name not in ONCE:
                    sections[name]()


def empty() -> None:
    """Begin anew: no task, no attempt, nothing for the relay; statistics of empty tables."""
    sql(
        "SET session_replication_role = replica",
        "DELETE FROM tasks.queue",
        "DELETE FROM tasks.identity",
        "DELETE FROM tasks.dependencies",
        "DELETE FROM tasks.executions",
        "DELETE FROM bridge.outbox",
        "RESET session_replication_role",
        "VACUUM ANALYZE",
    )


def sql(*statements: str) -> list[Any]:
    from django.db import connection

    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def worker_id() -> Any:
    from agents.registry import register_agent

    return register_agent("bench", "claims by itself").agent_id


def fill(number: int) -> None:
    from tasks.enqueue import NewTask, enqueue_many

    enqueue_many(NewTask(task_type="echo", payload={"n": n}) for n in range(number))


# -- the core, without a broker -------------------------------------------------------------------------------
def measure_core(report: Report, found: Installation, leaf: str) -> None:
    """At one connection, then at two, which begin together; the figure is what they do together."""
    tasks = report.rows(2_000, quick=200)
    for sessions, batch in product((1, 2), (1, 10)):
        name = f"core_batch_{batch}" if sessions == 1 else f"core_{sessions}_connections_batch_{batch}"
        rows = sessions * (tasks + (plain.WARM_TURNS + 1) * batch)
        empty()
        fill(rows)
        plain.make_copy(found.dsn, leaf, rows)
        report.add(name, at_once(sessions, run_core, tasks, batch), "tasks/s", sessions * tasks)
        peer = partial(plain.drain, found.dsn)
        report.add_peer(name, "bare SKIP LOCKED", at_once(sessions, peer, tasks, batch))


def at_once(sessions: int, run: Callable[..., float], *arguments: Any) -> float:
    """Return the sum of what `run(*arguments, wait)` returns in so many processes, as workers are, each with a
    connection of its own; all begin when each has called `wait`."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(sessions, spawn, get_ready, (spawn.Barrier(sessions),)) as processes:
        return sum(processes.map(run_one, repeat(run, sessions), repeat(arguments)))


_together: Any = None  # where the processes of `at_once` wait for each other


def get_ready(together: Any) -> None:
    """Set up a process of `at_once`."""
    import django

    global _together
    _together = together
    django.setup()


def run_one(run: Callable[..., float], arguments: Sequence[Any]) -> float:
    return run(*arguments, _together.wait)


def run_core(tasks: int, batch: int, wait: Callable[[], object] | None = None) -> float:
    """Return tasks per second: finish what was claimed, and claim the next, in one transaction. With `wait` the session
    has its plans before the clock runs: it is called after a few turns."""
    from tasks.claim import Claimed, Ended, finish_and_claim

    me, done = worker_id(), 0
    items: list[Claimed] = []
    if wait:
        for _ in range(plain.WARM_TURNS):
            items = finish_and_claim("echo", me, [Ended(item) for item in items], batch)[1]
        wait()
    began = time.perf_counter()
    while done < tasks:
        items = finish_and_claim("echo", me, [Ended(item) for item in items], batch)[1]
        done += len(items)
    return done / (time.perf_counter() - began)


def measure_features(report: Report, leaf: str) -> None:
    """The core at batch 1 with the leaf's triggers switched on one after the other: what each costs."""
    tasks = report.rows(1_000, quick=100)
    steps = {
        "none": (),
        "state_machine": ("check_status", "touch", "acquire_resources"),
        "dependencies": ("release_dependents",),
        "keys": ("free_holdings", "retake_unique_key"),
        "outbox": ("bridge_update",),
    }
    for number, name in enumerate(steps, 1):
        switched_on = [trigger for step in list(steps)[:number] for trigger in steps[step]]
        for _ in range(report.runs(RUNS)):
            empty()
            fill(tasks + 1)
            sql(f"ALTER TABLE {leaf} DISABLE TRIGGER USER")
            sql(*(f"ALTER TABLE {leaf} ENABLE TRIGGER {trigger}" for trigger in switched_on), "SELECT")
            report.add(f"core_with_{name}", run_core(tasks, 1), "tasks/s", tasks, note="and those before")
            sql(f"ALTER TABLE {leaf} ENABLE TRIGGER USER")


# -- enqueue --------------------------------------------------------------------------------------------------
def measure_enqueue(report: Report, found: Installation, leaf: str) -> None:
    from tasks.enqueue import enqueue

    single, bulk = report.rows(1_000, quick=100), report.rows(20_000, quick=2_000)
    empty()
    began = time.perf_counter()
    for number in range(single):
        enqueue("echo", {"n": number})
    report.add("enqueue_single", single / (time.perf_counter() - began), "tasks/s", single)
    report.add_peer("enqueue_single", "procrastinate", defer(found, single))
    empty()
    began = time.perf_counter()
    fill(bulk)
    report.add("enqueue_bulk", bulk / (time.perf_counter() - began), "tasks/s", bulk)
    report.add_peer("enqueue_bulk", "COPY", plain.copy_in(found.dsn, leaf, bulk))
    bare = plain.make_copy(found.dsn, leaf, 0)
    report.add("copy_without_triggers", plain.copy_in(found.dsn, bare, bulk), "tasks/s", bulk)


# -- workflows --------------------------------------------------------------------------------------------------
def measure_workflow(report: Report) -> None:
    """Fan out, fan in: stages of 100 tasks, each waiting for three of the stage before."""
    from pg.uuid7 import uuid7
    from tasks.enqueue import NewTask, enqueue_many

    tasks, width = report.rows(10_000, quick=500), 100
    ids = sorted(uuid7() for _ in range(tasks))
    empty()
    began = time.perf_counter()
    enqueue_many(
        NewTask(
            task_type="echo",
            task_id=ids[n],
            depends_on=[ids[n - width - k] for k in range(3) if n - width - k >= 0],
        )
        for n in range(tasks)
    )
    run_core(tasks, 10)
    spent = time.perf_counter() - began
    report.add("workflow_task_ms", spent * 1000 / tasks, "ms", tasks)
    empty()
    began = time.perf_counter()
    fill(tasks)
    run_core(tasks, 10)
    report.add_peer("workflow_task_ms", "independent tasks", (time.perf_counter() - began) * 1000 / tasks)
    report.add("release_1000_ms", release_ms(1_000), "ms", 1_000)


def release_ms(dependents: int) -> float:
    from tasks.claim import claim, finish
    from tasks.enqueue import NewTask, enqueue, enqueue_many

    empty()
    first = enqueue("echo", priority="critical")
    enqueue_many(NewTask(task_type="echo", depends_on=[first]) for _ in range(dependents))
    (item,) = claim("echo", worker_id())
    began = time.perf_counter()
    finish(item, None)
    return (time.perf_counter() - began) * 1000


# -- through workers --------------------------------------------------------------------------------------------
WORKER = (
    "worker",
    "--concurrency=2",
    "--without-gossip",
    "--without-mingle",
    "--without-heartbeat",
    "-lINFO",
)


def measure_drain(report: Report, found: Installation) -> None:
    """Tasks per second through two worker processes, the relay running: one per claim, then as the engine chooses. What
    enqueuing left to the relay is done before, as all that the others' enqueuing does."""
    tasks = report.rows(5_000, quick=300)
    ours = drain_ours(found, tasks, most=1)
    celery = drain_celery(found, tasks)
    report.add("drain", ours, "tasks/s", tasks)
    report.add_peer("drain", "bare Celery", celery)
    report.add("drain_short", drain_ours(found, tasks, most=50), "tasks/s", tasks)
    report.add_peer("drain_short", "bare Celery", celery)
    report.add("drain_vs_procrastinate", ours, "tasks/s", tasks)
    report.add_peer("drain_vs_procrastinate", "procrastinate", drain_procrastinate(found, tasks))


def drain_ours(found: Installation, tasks: int, most: int) -> float:
    from tasks import tickets

    empty()
    fill(tasks)
    log = found.home / "worker.log"
    ended = "SELECT extract(epoch FROM completed_at)::float8 FROM tasks.queue WHERE completed_at IS NOT NULL"
    worker = ("-m", "celery", "-A", "config", *WORKER, "--queues=tasks")
    environ = {"LOG_LEVEL": "INFO", "MISTERSMITH_TASKS_MAX_CLAIM": str(most)}
    with running(found.home / "bridge.log", "manage.py", "bridge", "run"):
        wait_for(is_relayed)
        with running(log, *worker, **environ):
            wait_for(lambda: " ready." in log.read_text())
            tickets.send_now(["echo"])
            return rate(lambda: [moment for (moment,) in sql(ended)], tasks)


def is_relayed() -> bool:
    return not sql("SELECT EXISTS (SELECT FROM bridge.outbox)")[0][0]


def rate(ended: Callable[[], Sequence[float]], tasks: int) -> float:
    """Return tasks per second between the end of a twentieth of them and that of the last: what starts up is not
    counted. `ended` returns when each task that has ended did: noted by who ran it, and looked at seldom, so that the
    looking costs nothing."""
    wait_for(lambda: len(ended()) == tasks, every_seconds=DRAIN_LOOK_SECONDS)
    moments = sorted(ended())
    first = tasks // 20
    return (tasks - 1 - first) / (moments[-1] - moments[first])


def counted_rate(left: Callable[[], int], tasks: int) -> float:
    """The same for a system that only counts, where looking costs nothing: the clock runs while we look."""
    wait_for(lambda: left() <= tasks * 0.95)
    first, began = max(1, left()), time.perf_counter()
    return first / (wait_for(lambda: left() == 0) - began)


def drain_celery(found: Installation, tasks: int) -> float:
    use_peer_broker(found)
    from bench.task_peers.celery_app import nothing, read_ends

    log, ends = found.home / "celery.log", found.home / "ends"
    ends.write_bytes(bytes(8 * tasks))
    for number in range(tasks):
        nothing.delay(number)
    with running(log, "-m", "celery", "-A", "bench.task_peers.celery_app", *WORKER, BENCH_ENDS=str(ends)):
        return rate(lambda: read_ends(ends), tasks)


def drain_procrastinate(found: Installation, tasks: int) -> float:
    import psycopg

    dsn = procrastinate_database(found)
    ask_procrastinate(dsn, "fill", str(tasks))
    command = ("-m", "bench.task_peers.procrastinate_app", "work")
    environ = {"BENCH_DSN": dsn, "PYTHONPATH": peer_path()}
    ended = "SELECT extract(epoch FROM at)::float8 FROM procrastinate_events WHERE type = 'succeeded'"
    with (
        psycopg.connect(dsn, autocommit=True) as connection,
        running(found.home / "p1.log", *command, **environ),
        running(found.home / "p2.log", *command, **environ),
    ):
        return rate(lambda: [moment for (moment,) in connection.execute(ended)], tasks)


def measure_awa(report: Report, found: Installation) -> None:
    """awa, whose two processes claim many at once by their own choice, beside ours that choose too."""
    tasks = report.rows(5_000, quick=300)
    report.add("drain_beside_awa", drain_ours(found, tasks, most=50), "tasks/s", tasks)
    report.add_peer("drain_beside_awa", "awa-pg", drain_awa(found, tasks))


def drain_awa(found: Installation, tasks: int) -> float:
    """Its processes count what they have done into a file each: its own tables are left alone meanwhile."""
    dsn = peer_database(found, "awa")
    environ = {"BENCH_DSN": dsn, "PYTHONPATH": peer_path()}
    command = ("-m", "bench.task_peers.awa_app")
    for argument in (("schema",), ("fill", str(tasks))):
        subprocess.run(
            [sys.executable, *command, *argument], cwd=ROOT, env={**os.environ, **environ}, check=True
        )
    files = [found.home / f"awa{n}.done" for n in (1, 2)]
    for file in files:
        file.write_text("0")
    with (
        running(found.home / "a1.log", *command, "work", str(files[0]), **environ),
        running(found.home / "a2.log", *command, "work", str(files[1]), **environ),
    ):
        return counted_rate(lambda: tasks - sum(int(file.read_text() or 0) for file in files), tasks)


def defer(found: Installation, number: int) -> float:
    return float(ask_procrastinate(procrastinate_database(found), "defer", str(number)))


def procrastinate_database(found: Installation) -> str:
    """Return the address of procrastinate's own database, made anew."""
    dsn = peer_database(found, "procrastinate")
    ask_procrastinate(dsn, "schema")
    return dsn


def peer_database(found: Installation, name: str) -> str:
    """Return the address of a peer's own database on our server, made anew."""
    import psycopg

    with psycopg.connect(found.dsn, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {name}")
    return f"{found.dsn.rpartition('/')[0]}/{name}"


def ask_procrastinate(dsn: str, *arguments: str) -> str:
    if not (PEERS / "procrastinate").is_dir():
        raise SystemExit(
            "procrastinate is not there\n"
            f"HINT: {Path(sys.executable).name} -m pip install --target {PEERS.relative_to(ROOT)}"
            " -r requirements-bench.txt"
        )
    environ = {**os.environ, "BENCH_DSN": dsn, "PYTHONPATH": peer_path()}
    command = [sys.executable, "-m", "bench.task_peers.procrastinate_app", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environ, check=True, capture_output=True, text=True
    ).stdout.strip()


def measure_latency(report: Report, found: Installation) -> None:
    """From the call of enqueue to the start of the attempt, at 50 tasks per second, in milliseconds."""
    from tasks.enqueue import enqueue
    from tasks.models import Execution

    tasks = report.rows(300, quick=50)
    empty()
    log, called = found.home / "worker.log", {}
    with (
        running(found.home / "bridge.log", "manage.py", "bridge", "run"),
        running(log, "-m", "celery", "-A", "config", *WORKER, "--queues=tasks", LOG_LEVEL="INFO"),
    ):
        wait_for(lambda: " ready." in log.read_text())
        enqueue("echo")
        wait_for(lambda: Execution.objects.filter(status="completed").exists())
        for number in range(tasks):
            began = time.time()
            called[enqueue("echo", number)] = began
            time.sleep(max(0.0, 0.02 - (time.time() - began)))
        wait_for(lambda: Execution.objects.filter(status="completed").count() == tasks + 1)
    started = Execution.objects.filter(task_id__in=called).values_list("task_id", "started_at")
    waits = [(moment.timestamp() - called[task_id]) * 1000 for task_id, moment in started]
    peers = latency_of_celery(found, tasks)
    for percent in (50, 99):
        report.add(f"latency_p{percent}", percentile(waits, percent), "ms", tasks)
        report.add_peer(f"latency_p{percent}", "bare Celery", percentile(peers, percent))


def latency_of_celery(found: Installation, tasks: int) -> list[float]:
    """Return for each task the milliseconds from the call of `delay` to the start in a worker."""
    use_peer_broker(found)
    from bench.task_peers.celery_app import note

    log, waits = found.home / "celery.log", found.home / "waits.txt"
    waits.write_text("")
    with running(log, "-m", "celery", "-A", "bench.task_peers.celery_app", *WORKER, BENCH_WAITS=str(waits)):
        wait_for(lambda: " ready." in log.read_text())
        for number in range(tasks + 1):
            began = time.time()
            note.delay(began)
            if number == 0:  # the first one opens connections
                wait_for(lambda: bool(waits.read_text()))
            time.sleep(max(0.0, 0.02 - (time.time() - began)))
        wait_for(lambda: waits.read_text().count("\n") == tasks + 1)
    return [float(line) for line in waits.read_text().split()][1:]


def use_peer_broker(found: Installation) -> str:
    """Let bare Celery use a database of its own on our broker; return its address."""
    url = found.valkey.server.url().rpartition("/")[0] + "/9"
    os.environ["BENCH_BROKER"] = url
    return url


if __name__ == "__main__":
    main()
