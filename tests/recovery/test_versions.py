"""Older servers: their own programs, and the wheel's newer ones, whose dumps must restore there too."""

import os
import pwd
import subprocess
from pathlib import Path

import pytest

from cockpit.servers.ports import free_port
from recovery import archive, logical
from recovery.server import Server
from recovery.tools import find_tools
from recovery.verify import compare_database

FIFTEEN = Path("/usr/lib/postgresql/15/bin")
TABLES = """
CREATE TABLE public.a (n int, t text DEFAULT 'x') PARTITION BY RANGE (n);
CREATE TABLE public.a_low PARTITION OF public.a FOR VALUES FROM (0) TO (1000);
INSERT INTO public.a SELECT n, md5(n::text) FROM generate_series(1, 999) n;
"""


@pytest.fixture
def fifteen(own_home):
    """A PostgreSQL 15 of this test's own."""
    if not FIFTEEN.is_dir():
        pytest.skip("postgresql-15 is not installed (make system-deps)")
    data, port = own_home / "fifteen", free_port()
    data.mkdir()
    user = "postgres" if os.getuid() == 0 else None
    if user:
        os.chown(data, pwd.getpwnam(user).pw_uid, -1)
    quiet = {"user": user, "cwd": "/", "check": True, "stdout": subprocess.DEVNULL, "timeout": 60}
    subprocess.run([FIFTEEN / "initdb", "-D", data, "-U", "mistersmith", "-A", "trust", "-N"], **quiet)
    options = f"-p {port} -k '' -c listen_addresses=127.0.0.1 -c fsync=off"
    subprocess.run(
        [FIFTEEN / "pg_ctl", "-D", data, "-o", options, "-l", data / "log", "-w", "start"], **quiet
    )
    yield Server("source", {"host": "127.0.0.1", "port": str(port), "user": "mistersmith"})
    subprocess.run([FIFTEEN / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop"], **quiet)


@pytest.mark.deep
@pytest.mark.parametrize("major", [15, 18])
def test_a_database_of_15_is_dumped_restored_and_equal(fifteen, own_home, settings, major):
    if major == 15:
        settings.PG_BIN_DIR = str(FIFTEEN)
    tools = find_tools(major)
    with fifteen.connect("postgres") as session:
        session.execute("CREATE DATABASE source")
    with fifteen.connect() as session:
        session.execute(TABLES)
        contents, database = logical.dump(own_home, fifteen, session, tools, jobs=2)
        logical.dump_globals(own_home / "globals.sql", fifteen, session, tools)
        archive.create_database(session, "target", database)
        archive.load_dump(own_home, fifteen, "target", tools, jobs=2)
    assert tools.major == major
    assert contents.row_counts == {"public.a": 999}
    assert compare_database(fifteen, "target", {"contents": contents.to_json()}) == []
