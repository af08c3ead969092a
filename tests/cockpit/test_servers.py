"""The embedded servers, really started: each on its own data, which survives what happens to the process."""

import os
import signal
import socket
import subprocess
import sys

import psutil
import psycopg
import pytest

from cockpit.servers import Nats, Postgres, Running, ServerError, Valkey, all_servers
from cockpit.servers.base import leashed
from pg.errors import Unreachable

KINDS = [Postgres, Nats, Valkey]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def server(request, own_home):
    return request.param(own_home)


@pytest.fixture
def running(server):
    with Running(server) as running:
        yield running


def test_server_starts_answers_and_stops(running):
    assert running.server.is_ready()
    assert running.server.version()[0].isdigit()
    running.stop()
    assert not running.server.is_ready()
    assert running.process.returncode in (0, 1)  # nats-server ends with 1 after SIGTERM


def test_server_refuses_who_has_no_password(running):
    _, _, address = running.server.url().rpartition("@")
    host, _, port = address.partition("/")[0].partition(":")
    if isinstance(running.server, Postgres):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(f"postgresql://mistersmith:wrong@{address}")
        return
    words = b"CONNECT {}\r\nPING\r\n" if isinstance(running.server, Nats) else b"PING\r\n"
    with socket.create_connection((host, int(port)), timeout=5) as sock, sock.makefile("rb") as lines:
        sock.sendall(words)
        answers = [lines.readline(), lines.readline()] if words != b"PING\r\n" else [lines.readline()]
    assert b"Authorization Violation" in answers[-1] or b"NOAUTH" in answers[-1]


def test_password_files_are_private(server):
    server.prepare()
    private = [
        path for path in server.directory.iterdir() if path.name in ("password", "nats.conf", "valkey.conf")
    ]
    assert private
    assert all(path.stat().st_mode & 0o077 == 0 for path in private)


def test_restart_keeps_address_and_password(running):
    before = running.server.url()
    running.restart()
    assert running.server.url() == before


def test_taken_port_is_left_to_its_owner(server):
    server.prepare()
    with socket.create_server(("127.0.0.1", server.port())), Running(server) as running:
        assert running.server.is_ready()
    assert server.url()


def test_rows_survive_kill_and_stale_pid_file(own_home):
    with Running(Postgres(own_home)) as running:
        with psycopg.connect(running.server.url(), autocommit=True) as session:
            session.execute("CREATE TABLE kept AS SELECT 42 AS x")
        running.kill()
        pid_file = running.server.data / "postmaster.pid"
        assert pid_file.is_file()
        # the pid of the killed server belongs to somebody else now
        lines = pid_file.read_text().splitlines()
        pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
        running.start()
        with psycopg.connect(running.server.url()) as session:
            assert session.execute("SELECT x FROM kept").fetchone() == (42,)


def test_streams_survive_kill(own_home):
    with Running(Nats(own_home)) as running:
        stream = '{"name":"KEPT","subjects":["kept"],"storage":"file"}'
        assert '"name":"KEPT"' in nats_request(running.server, "$JS.API.STREAM.CREATE.KEPT", stream)
        assert '"seq":1' in nats_request(running.server, "kept", "hello")
        running.kill()
        running.start()
        assert '"messages":1' in nats_request(running.server, "$JS.API.STREAM.INFO.KEPT", "")


def test_queues_survive_kill(own_home):
    with Running(Valkey(own_home)) as running:
        login = f"AUTH {running.server.password()}\r\n"
        assert ":1" in running.server.ask(f"{login}RPUSH kept hello\r\nWAITAOF 1 0 5000\r\nQUIT\r\n")
        running.kill()
        running.start()
        assert "hello" in running.server.ask(f"{login}LRANGE kept 0 -1\r\nQUIT\r\n")


def nats_request(server, subject, body):
    """Send one request in NATS's own text protocol; return the answer."""
    user, password = "mistersmith", server.password()
    connect = f'CONNECT {{"user":"{user}","pass":"{password}","verbose":false,"headers":false}}\r\n'
    request = f"SUB inbox 1\r\nPUB {subject} inbox {len(body)}\r\n{body}\r\n"
    with (
        socket.create_connection(("127.0.0.1", server.port()), timeout=10) as sock,
        sock.makefile("rb") as lines,
    ):
        lines.readline()
        sock.sendall((connect + request).encode())
        while not (head := lines.readline()).startswith(b"MSG"):
            assert head.startswith((b"PING", b"INFO")), head
        return lines.read(int(head.split()[-1])).decode().replace(" ", "").replace("\n", "")


# -- PostgreSQL ---------------------------------------------------------------------------------------------
def test_postgres_has_the_settings_that_recovery_and_statistics_need(own_home):
    wanted = {
        "max_connections": "200",
        "wal_level": "replica",
        "archive_mode": "on",
        "summarize_wal": "on",
        "track_commit_timestamp": "on",
        "data_checksums": "on",
        "shared_preload_libraries": "pg_stat_statements",
        "server_encoding": "UTF8",
        "TimeZone": "UTC",
        "password_encryption": "scram-sha-256",
        "listen_addresses": "127.0.0.1",
    }
    with Running(Postgres(own_home)) as running, psycopg.connect(running.server.url()) as session:
        assert {name: session.execute(f"SHOW {name}").fetchone()[0] for name in wanted} == wanted
        session.execute("CREATE EXTENSION vector")
        session.execute("CREATE EXTENSION pg_stat_statements")


def test_interrupted_initialisation_is_thrown_away_and_redone(own_home):
    postgres = Postgres(own_home)
    half = postgres.directory / "data.new"
    (half / "base").mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with Running(postgres) as running:
        assert running.server.is_ready()
    assert not half.exists()


def test_incomplete_data_directory_of_unknown_origin_is_left_alone(own_home):
    postgres = Postgres(own_home)
    (postgres.data / "base").mkdir(parents=True)
    with pytest.raises(ServerError, match="PG_VERSION is missing") as caught:
        postgres.prepare()
    assert "mv " in caught.value.hint
    assert [path.name for path in postgres.data.iterdir()] == ["base"]


def test_data_of_another_major_version_is_refused(own_home):
    postgres = Postgres(own_home)
    postgres.data.mkdir(parents=True)
    (postgres.data / "PG_VERSION").write_text("15\n")
    with pytest.raises(ServerError, match="made by PostgreSQL 15, the embedded one is 18"):
        postgres.prepare()


def test_lost_password_file_is_replaced(own_home):
    with Running(Postgres(own_home)) as running:
        before = running.server.password()
        running.stop()
        (running.server.directory / "password").unlink()
        running.start()
        assert running.server.password() != before


def test_data_in_use_is_refused(own_home):
    with Running(Postgres(own_home)) as running:
        with pytest.raises(ServerError, match="already runs on") as caught:
            running.server.prepare(timeout_seconds=0.1)
        assert "make down" in caught.value.hint
        with pytest.raises(ServerError, match=f"as process {running.process.pid}"):
            running.server.forget_dead_postmaster()
        assert running.server.is_ready()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes user")
def test_closed_folders_are_left_closed_and_postgres_is_sheltered(own_home, monkeypatch):
    from pg import account

    shelters = own_home / "shelters"
    monkeypatch.setattr(account, "SHELTERS", shelters)
    closed = own_home / "closed"
    closed.mkdir(mode=0o700)
    with Running(Postgres(closed / "home")) as running:
        assert running.server.data.is_symlink()
        assert running.server.data.resolve().is_relative_to(shelters)
        running.restart()
    assert closed.stat().st_mode & 0o777 == 0o700


def test_full_disk_is_named_before_anything_is_written(own_home, monkeypatch):
    monkeypatch.setattr(
        "cockpit.servers.base.shutil.disk_usage", lambda path: type("", (), {"free": 1 << 20})
    )
    for server in all_servers(own_home):
        with pytest.raises(ServerError, match=r"disk full: .* 1 MB free") as caught:
            server.prepare()
        assert "free some space" in caught.value.hint
        assert list(server.directory.iterdir()) == []


def test_server_that_dies_while_starting_is_reported_at_once(own_home):
    with Running(Postgres(own_home)) as running:
        running.stop()
        (running.server.data / "postgresql.conf").write_text("nonsense = 1\n")
        with pytest.raises(Unreachable, match="ended while starting"):
            running.start()


# -- the leash ----------------------------------------------------------------------------------------------
def test_leashed_program_ends_with_its_killed_parent():
    child = leashed([sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()"], "TERM")
    program = (
        f"import subprocess; p = subprocess.Popen({child!r}, stdin=subprocess.PIPE);"
        "print(p.pid, flush=True); p.wait()"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    words = {parent.stdout.readline().strip(), parent.stdout.readline().strip()}
    pid = int(next(iter(words - {"up"})))
    process = psutil.Process(pid)
    parent.kill()
    parent.communicate()
    psutil.wait_procs([process], timeout=60)
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_leash_refuses_to_start_for_a_parent_that_is_gone():
    done = subprocess.run(leashed(["true"], "TERM", parent=999_999_999), capture_output=True, text=True)
    assert done.returncode == 1
    assert "has ended" in done.stderr


def test_leash_restores_signals_that_python_ignores():
    done = subprocess.run(
        leashed(["cat", "/proc/self/status"], "TERM", os.getpid()), capture_output=True, text=True
    )
    ignored = next(line for line in done.stdout.splitlines() if line.startswith("SigIgn"))
    assert not int(ignored.split()[1], 16) & (1 << (signal.SIGPIPE - 1))
