"""Cross-system backups: how long the bridge is held, and what PostgreSQL's writers notice of it.

A bridge runs, PostgreSQL owns 10 MB of keys, writers change configurations and enqueue tasks all the time. Beside the
fence stand the same snapshots without it; beside the writers' worst transaction the worst of the same load alone.

The server has WAL segments to recycle, as every one has that has run for an hour: on a fresh one whoever needs the next
segment first fills 16 MB of it with zeros, and all that commit wait for that, with a backup or without.
"""

import multiprocessing
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psycopg

from bench.frame import Report, percentile
from bench.frame.servers import Installation, installation
from bench.recovery import archive_here, require, timed

# of 0.85 kB as the server counts; with what the writers add it is 10 MB by the third fence
KEYS, QUICK_KEYS = 10_000, 500
WRITERS = 4
FENCES = 5
WINDOW_SECONDS, QUICK_SECONDS = 15, 4
RUNS = 3
RECYCLED = 30  # WAL segments: more than a run uses
FILL = """
INSERT INTO agents.registry (agent_type, agent_name, configuration)
SELECT 'bench', 'agent ' || n, jsonb_build_object('n', 0, 'text', (
  SELECT string_agg(md5(n::text || '/' || part), '') FROM generate_series(1, 16) part))
FROM generate_series(1, %s) n
"""
CHANGE = """
UPDATE agents.registry SET configuration = jsonb_set(configuration, '{n}', to_jsonb(%s::int)) WHERE agent_id = %s
"""
ENQUEUE = "INSERT INTO tasks.queue (task_type, payload) VALUES ('bench', jsonb_build_object('n', %s::int))"


def main() -> None:
    with Report("recovery_cross") as report, installation(report) as found:
        archive_here(found)
        keys = report.rows(KEYS, QUICK_KEYS)
        agents = fill(found, keys)
        with bridge(found):
            wait_for_empty_outbox(found)
            recycle_wal(found)
            story = Story(found, report, agents)
            story.measure_fence()
            story.measure_writers()
            story.measure_drill()


def fill(found: Installation, keys: int) -> list[Any]:
    with psycopg.connect(found.dsn, autocommit=True) as session:
        session.execute(FILL, [keys])
        return [row[0] for row in session.execute("SELECT agent_id FROM agents.registry").fetchall()]


@contextmanager
def bridge(found: Installation) -> Iterator[None]:
    """The bridge as it runs in earnest: a process of its own."""
    root = Path(__file__).parents[1]
    argv = [sys.executable, "manage.py", "bridge", "run"]
    with (
        (found.home / "bridge.log").open("ab") as log,
        subprocess.Popen(argv, cwd=root, stdout=log, stderr=log) as run,
    ):
        try:
            yield
        finally:
            run.terminate()


def wait_for_empty_outbox(found: Installation) -> None:
    deadline = time.monotonic() + 300
    with psycopg.connect(found.dsn, autocommit=True) as session:
        while session.execute("SELECT EXISTS (SELECT FROM bridge.outbox)").fetchone()[0]:
            require(time.monotonic() < deadline, "the outbox does not empty")
            time.sleep(0.1)


def recycle_wal(found: Installation) -> None:
    """Use up some WAL segments, and let checkpoints recycle them: when they are archived and summarised."""
    ahead = (
        "SELECT count(*) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'"
        " AND name > pg_walfile_name(pg_current_wal_insert_lsn())"
    )
    deadline = time.monotonic() + 120
    with psycopg.connect(found.dsn, autocommit=True) as session:
        for _ in range(RECYCLED):
            session.execute("SELECT pg_create_restore_point('used')")
            session.execute("SELECT pg_switch_wal()")
        while session.execute(ahead).fetchone()[0] < RECYCLED // 2:
            require(time.monotonic() < deadline, "WAL segments are not recycled")
            session.execute("CHECKPOINT")
            time.sleep(0.5)


class Story:
    def __init__(self, found: Installation, report: Report, agents: list[Any]) -> None:
        self.found, self.report, self.agents = found, report, agents

    def measure_fence(self) -> None:
        """Under load, `fenced`: from the last publisher's pause until they go on; `waited` before that."""
        from recovery.cross import back_up_cross
        from recovery.cross_manifest import read_stored

        back_up_cross()  # makes the base backup
        with writers(self.found, self.agents) as _:
            sizes: list[int] = []
            for _ in range(self.report.runs(FENCES)):
                seconds, backup = timed(back_up_cross)
                stored = read_stored(backup)
                kept = [
                    s for s in stored.snapshots.values() if s.stream in ("KV_AGENT_CONFIG", "KV_TASK_STATE")
                ]
                sizes.append(sum(int(snapshot.state["bytes"]) for snapshot in kept))
                note = f"{median(sizes) / 1e6:.1f} MB of keys that PostgreSQL owns, under load"
                self.report.add("fence_ms", stored.fenced_ms, "ms", len(self.agents), note)
                self.report.add_peer("fence_ms", "the snapshots alone", snapshots_alone(self.found))
                self.report.add(
                    "fence_wait_ms", stored.waited_ms, "ms", len(self.agents), "for the batch in hand"
                )
                self.report.add(
                    "whole_seconds", seconds, "s", len(self.agents), "without a base backup; proof included"
                )

    def measure_writers(self) -> None:
        """The worst transaction within a window: alone, while cross-system backups follow one another, and while each
        of them makes a base or incremental backup first."""
        from recovery.cross import back_up_cross

        window = self.report.rows(WINDOW_SECONDS, QUICK_SECONDS)
        for _ in range(self.report.runs(RUNS)):
            alone, _ = self.load(window, lambda: time.sleep(0.2))
            beside, made = self.load(window, back_up_cross)
            self.add("writer_worst_ms", max(beside), max(alone), len(beside), f"{made} backups in {window} s")
            self.add("writer_p99_ms", percentile(beside, 99), percentile(alone, 99), len(beside), "")
            copied, made = self.load(window, lambda: back_up_cross(copy=True))
            note = f"{made} backups in {window} s, each with a base or incremental one"
            self.add("writer_worst_with_base_ms", max(copied), max(alone), len(copied), note)

    def add(self, name: str, sample: float, alone: float, rows: int, note: str) -> None:
        self.report.add(name, sample, "ms", rows, note)
        self.report.add_peer(name, "without a backup", alone)

    def load(self, window: int, beside: Callable[[], Any]) -> tuple[list[float], int]:
        """Return what each transaction took in milliseconds, and how often `beside` was done meanwhile."""
        done, until = 0, time.monotonic() + window
        with writers(self.found, self.agents) as taken:
            while time.monotonic() < until:
                beside()
                done += 1
        return taken, done

    def measure_drill(self) -> None:
        from recovery.cross_drill import run_cross_drill

        drill = run_cross_drill()
        require(not drill.problems, str(drill.problems))
        seconds, rows = drill.proof.seconds, drill.jetstream.compared
        self.report.add(
            "restore_seconds", drill.proof.rto_seconds, "s", rows, "both systems, without the checks"
        )
        self.report.add(
            "restore_jetstream_seconds",
            seconds["jetstream"],
            "s",
            rows,
            "of it JetStream, with the comparison",
        )


@contextmanager
def writers(found: Installation, agents: list[Any]) -> Iterator[list[float]]:
    """Change configurations and enqueue tasks until the block ends, in a process of their own; the milliseconds of each
    transaction are in the list afterwards."""
    taken: list[float] = []
    spawn = multiprocessing.get_context("spawn")
    began, is_over, out = spawn.Event(), spawn.Event(), spawn.Queue()
    process = spawn.Process(target=write_all, args=(found.dsn, agents, began, is_over, out), daemon=True)
    process.start()
    require(began.wait(60), "the writers do not begin")
    try:
        yield taken
    finally:
        is_over.set()
        taken += out.get(timeout=60)
        process.join(60)


def write_all(dsn: str, agents: list[Any], began: Any, is_over: Any, out: Any) -> None:
    """Write by some threads until told to stop; put the milliseconds of each transaction."""
    taken: list[float] = []

    def write(seed: int) -> None:
        chance = random.Random(seed)
        with psycopg.connect(dsn, autocommit=True) as session:
            number = 0
            while not is_over.is_set():
                number += 1
                start = time.perf_counter()
                with session.transaction():
                    session.execute(CHANGE, [number, chance.choice(agents)])
                    session.execute(ENQUEUE, [number])
                taken.append((time.perf_counter() - start) * 1000)
                time.sleep(0.005)

    threads = [threading.Thread(target=write, args=[seed]) for seed in range(WRITERS)]
    for thread in threads:
        thread.start()
    began.set()
    for thread in threads:
        thread.join()
    out.put(taken)


def snapshots_alone(found: Installation) -> float:
    """Return the milliseconds that the two fenced buckets' snapshots take without the fence."""
    import asyncio
    import shutil
    import tempfile

    from bridge import connection
    from recovery.jetstream import take

    place = Path(tempfile.mkdtemp(dir=found.home))

    async def both(client: Any) -> None:
        names = ("KV_AGENT_CONFIG", "KV_TASK_STATE")
        await asyncio.gather(*(take(client, name, place / name) for name in names))

    seconds, _ = timed(lambda: connection.call(both, 60))
    shutil.rmtree(place)
    return seconds * 1000


if __name__ == "__main__":
    main()
