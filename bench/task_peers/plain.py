"""The raw limit: claim and finish on a copy of a leaf without triggers, by SKIP LOCKED, nothing else."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import psycopg

WARM_TURNS = 8  # psycopg prepares a statement when it has run five times
CLAIM = """
UPDATE bench_queue q SET status = 'running', attempt = q.attempt + 1, worker = %(worker)s,
       started_at = greatest(clock_timestamp(), q.created_at), lease_until = clock_timestamp() + interval '60 s'
WHERE q.task_id = ANY(ARRAY(
  SELECT r.task_id FROM bench_queue r WHERE r.status = 'queued' ORDER BY r.priority DESC, r.created_at
  LIMIT {limit} FOR UPDATE SKIP LOCKED)) AND q.status = 'queued'
RETURNING q.task_id, q.payload"""
FINISH = """
UPDATE bench_queue q SET status = 'completed', lease_until = NULL,
       completed_at = greatest(clock_timestamp(), q.started_at)
WHERE q.task_id = ANY(%(ids)s) AND q.worker = %(worker)s AND q.status = 'running'"""


def make_copy(dsn: str, leaf: str, rows: int) -> str:
    """Make bench_queue anew as `leaf` is, its indexes too, with `rows` queued tasks; return its name."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS bench_queue")
        connection.execute(f"CREATE TABLE bench_queue (LIKE {leaf} INCLUDING ALL)")
        connection.execute(
            "INSERT INTO bench_queue (task_type, status, payload)"
            " SELECT 'echo', 'queued', jsonb_build_object('n', n) FROM generate_series(1, %s) n",
            [rows],
        )
        connection.execute("VACUUM ANALYZE bench_queue")
    return "bench_queue"


def drain(dsn: str, tasks: int, batch: int, wait: Callable[[], object]) -> float:
    """Return tasks per second: finish what was claimed, and claim the next, in one transaction. `wait` is called when
    the session has its plans, after a few turns; then the clock runs."""
    with psycopg.connect(dsn) as connection:
        take_turn = partial(turn, connection, CLAIM.format(limit=batch), uuid4())
        ids: list[UUID] = []
        done = 0
        for _ in range(WARM_TURNS):
            ids = take_turn(ids)
        wait()
        began = time.perf_counter()
        while done < tasks:
            ids = take_turn(ids)
            done += len(ids)
        return done / (time.perf_counter() - began)


def turn(connection: psycopg.Connection[Any], claim: str, worker: UUID, ids: list[UUID]) -> list[UUID]:
    if ids:
        connection.execute(FINISH, {"ids": ids, "worker": worker})
    found = connection.execute(claim, {"worker": worker}).fetchall()
    connection.commit()
    return [row[0] for row in found]


def copy_in(dsn: str, table: str, rows: int) -> float:
    """Return rows per second of COPY into `table`, its triggers included."""
    with psycopg.connect(dsn) as connection:
        began = time.perf_counter()
        with connection.cursor().copy(f"COPY {table} (task_type, payload) FROM STDIN") as copy:
            for number in range(rows):
                copy.write_row(("echo", f'{{"n": {number}}}'))
        connection.commit()
        return rows / (time.perf_counter() - began)
