"""A task type gets its leaf while everybody works: rows that waited in DEFAULT move, and nobody notices."""

import threading
import time
from collections.abc import Callable

import psycopg
import pytest

from tests.tasks.conftest import eventually

WRITERS, READERS, BEFORE = 3, 2, 500
INSERT = "INSERT INTO tasks.queue (task_type, payload) VALUES ('busy', '{}') RETURNING task_id"
COUNT = "SELECT count(*) FROM tasks.queue WHERE task_type = 'busy'"


class Crowd:
    """Threads that do one thing again and again until told to stop, each on a session of its own; errors are kept."""

    def __init__(self, dsn: str) -> None:
        self.dsn, self.stopped = dsn, threading.Event()
        self.errors: list[str] = []
        self.done = 0
        self.threads: list[threading.Thread] = []

    def add(self, work: Callable[[psycopg.Connection], None]) -> None:
        thread = threading.Thread(target=self.run, args=[work])
        self.threads.append(thread)
        thread.start()

    def run(self, work: Callable[[psycopg.Connection], None]) -> None:
        try:
            with psycopg.connect(self.dsn, autocommit=True) as session:
                while not self.stopped.is_set():
                    work(session)
                    self.done += 1
        except (psycopg.Error, AssertionError) as error:
            self.errors.append(f"{type(error).__name__}: {error}")

    def end(self) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(30)


@pytest.fixture
def crowd(own_database):
    made = Crowd(own_database.dsn)
    yield made
    made.end()


def test_rows_move_out_of_default_under_full_load(own_database, crowd):
    """Writers insert, change and enqueue with a dependency; readers count, and must never see fewer than before."""
    ids: list[str] = []

    def write(session: psycopg.Connection) -> None:
        task_id = session.execute(INSERT).fetchone()[0]
        changed = session.execute(
            "UPDATE tasks.queue SET progress = '1' WHERE task_id = %s", [task_id]
        ).rowcount
        assert changed == 1, "a writer lost sight of its row"
        ids.append(task_id)

    def count() -> Callable[[psycopg.Connection], None]:
        seen = [0]

        def look(session: psycopg.Connection) -> None:
            found = session.execute(COUNT).fetchone()[0]
            assert found >= seen[0], f"a reader saw {found} rows after {seen[0]}"
            seen[0] = found

        return look

    with own_database.connect() as session:
        session.execute(
            "INSERT INTO tasks.queue (task_type) SELECT 'busy' FROM generate_series(1, %s)", [BEFORE]
        )
        parent = session.execute("SELECT min(task_id::text) FROM tasks.queue").fetchone()[0]
        waiting = session.execute(
            "INSERT INTO tasks.queue (task_type) VALUES ('other') RETURNING task_id"
        ).fetchone()[0]
        session.execute(
            "INSERT INTO tasks.dependencies (task_id, depends_on_task_id) VALUES (%s, %s)", [waiting, parent]
        )
        per_write = outbox_rows(session)
        write(session)
        per_write = outbox_rows(session) - per_write
        outbox = outbox_rows(session) - per_write
        for _ in range(WRITERS):
            crowd.add(write)
        for _ in range(READERS):
            crowd.add(count())
        eventually(lambda: len(ids) > 50 or crowd.errors)
        for n in range(8):  # other leaves come and go into the parent as well
            register(session, "busy" if n == 4 else f"type {n}")
        seen = len(ids)
        eventually(lambda: len(ids) > seen + 50 or crowd.errors)
        crowd.end()
        assert crowd.errors == []
        leaf = register(session, "busy")
        assert session.execute(f"SELECT count(*) FROM {leaf}").fetchone() == (BEFORE + len(ids),)
        assert session.execute(
            "SELECT count(*) FROM tasks.queue_default WHERE task_type = 'busy'"
        ).fetchone() == (0,)
        assert session.execute(COUNT).fetchone() == (BEFORE + len(ids),)
        lost = session.execute(
            "SELECT count(*) FROM tasks.identity i WHERE task_type = 'busy'"
            " AND NOT EXISTS (SELECT FROM tasks.queue q WHERE q.task_id = i.task_id AND q.task_type = 'busy')"
        )
        assert lost.fetchone() == (0,)
        assert session.execute("SELECT count(*) FROM tasks.dependencies").fetchone() == (1,), "no cascade"
        assert outbox_rows(session) == outbox + per_write * len(ids), (
            "the move is neither a delete nor an insert"
        )


def outbox_rows(session: psycopg.Connection) -> int:
    return session.execute("SELECT count(*) FROM bridge.outbox").fetchone()[0]


def register(session: psycopg.Connection, task_type: str) -> str:
    deadline = time.monotonic() + 120
    while True:
        try:
            return session.execute(
                "SELECT partitions.create_task_type_partition(%s, '500ms')", [task_type]
            ).fetchone()[0]
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            assert time.monotonic() < deadline


def test_a_reader_that_waits_for_the_move_sees_every_row(own_database):
    """The collision made certain: the reader has begun when the rows move."""
    with (
        own_database.connect() as session,
        own_database.connect() as reader,
        own_database.connect() as holder,
    ):
        session.execute("INSERT INTO tasks.queue (task_type) SELECT 'busy' FROM generate_series(1, 9)")
        holder.execute("BEGIN")
        holder.execute("LOCK TABLE tasks.queue_default IN ROW EXCLUSIVE MODE")
        pid = session.info.backend_pid
        mover = threading.Thread(
            target=lambda: session.execute("SELECT partitions.create_task_type_partition('busy', '20s')")
        )
        mover.start()
        eventually(lambda: is_waiting(holder, pid))
        answers: list[int] = []
        look = threading.Thread(target=lambda: answers.append(reader.execute(COUNT).fetchone()[0]))
        look.start()
        eventually(lambda: is_waiting(holder, reader.info.backend_pid) or answers)
        holder.execute("COMMIT")
        mover.join(30)
        look.join(30)
        assert answers == [9]


def is_waiting(session: psycopg.Connection, pid: int) -> bool:
    return (
        session.execute("SELECT count(*) FROM pg_locks WHERE pid = %s AND NOT granted", [pid]).fetchone()[0]
        > 0
    )
