"""The disk of PostgreSQL is full: writes are refused, or the server goes down; what was accepted is done in the end.

Simulated by the kernel's limit on the size of a file, set on the running server from outside: a write beyond it fails,
as one does for which there is no room. PostgreSQL says "File too large" instead of "No space left on device".
"""

import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import psycopg
import pytest

from cockpit.servers import Running
from tests.faults.installation import PATIENCE_SECONDS, Installation
from tests.tasks.conftest import eventually

pytestmark = [pytest.mark.servers, pytest.mark.deep]
MIB = 1 << 20
WAL_FILE = 16 * MIB
BATCH, MOST_BATCHES = 20, 100
# 64 kB that do not compress: few tasks fill a file
FILL = (
    "INSERT INTO tasks.queue (task_type, payload)"
    " SELECT 'echo', (SELECT to_jsonb(string_agg(md5(random()::text), '')) FROM generate_series(n, n + 2000))"
    " FROM generate_series(1, %s) n"
)
MORE_WAL = f"SELECT pg_logical_emit_message(true, 'faults', repeat('x', {2 * MIB}))"


def test_tables_that_cannot_grow_refuse_writes_and_lose_none(installation, faults):
    """What fits is accepted and done, also while the disk is full; a batch that does not fit leaves no row."""
    server = installation.servers["postgres"]
    with limited_files(server, WAL_FILE):
        refused = fill(installation)
        faults.happened("write refused: disk full")
        assert "File too large" in str(refused)
        rows = installation.ask("SELECT count(*) FROM tasks.queue")[0][0]
        faults.wrong(rows_of_refused_writes=rows - installation.accepted)
    installation.enqueue(BATCH, FILL)
    eventually(installation.is_done, PATIENCE_SECONDS)
    installation.count(faults)


def fill(installation: Installation) -> psycopg.Error:
    """Enqueue batch after batch until one is refused; return with which error."""
    for _ in range(MOST_BATCHES):
        try:
            installation.enqueue(BATCH, FILL)
        except psycopg.Error as error:
            return error
    raise AssertionError("the limit was never reached")


def test_a_server_that_cannot_write_its_log_comes_back_with_all_it_has_promised(installation, faults):
    """No room for WAL: PostgreSQL panics and cannot start. With room again it recovers, and the rest with it."""
    server = installation.servers["postgres"]
    installation.enqueue(100)
    with limited_files(server, MIB):
        with pytest.raises(psycopg.OperationalError):
            installation.ask(MORE_WAL)
        eventually(lambda: not server.is_alive(), PATIENCE_SECONDS)
        faults.happened("server down: no room for WAL")
    server.start()
    installation.enqueue(100)
    eventually(installation.is_done, PATIENCE_SECONDS)
    installation.count(faults)


@contextmanager
def limited_files(server: Running, size_bytes: int) -> Iterator[None]:
    """Let no process of the server write beyond `size_bytes` of a file; sessions that come later inherit that."""
    set_limit(server, str(size_bytes))
    try:
        yield
    finally:
        if server.is_alive():
            set_limit(server, "unlimited")


def set_limit(server: Running, size: str) -> None:
    """The parent first: whom it starts meanwhile has the limit too. The soft limit only, by the server's own user."""
    main = psutil.Process(server.process.pid)
    for process in (main, *main.children(recursive=True)):
        argv = ["prlimit", f"--pid={process.pid}", f"--fsize={size}:"]
        done = subprocess.run(argv, **as_account(server), capture_output=True, text=True, cwd="/")
        assert done.returncode == 0 or not process.is_running(), done.stderr


def as_account(server: Running) -> dict[str, Any]:
    """A root without CAP_SYS_RESOURCE may not limit the processes of another user; that user may."""
    name = server.server.account()
    return {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []} if name else {}
