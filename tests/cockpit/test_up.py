"""`up` as a person runs it: a process of its own, in a home of its own, with all that it starts."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import psycopg
import pytest

from cockpit.servers import ports
from tests.marks import LATER

CHECKOUT = Path(__file__).parents[2]
FOREIGN = ("DATABASE_URL", "NATS_URL", "CELERY_BROKER_URL", "MISTERSMITH_HOME", "PYTEST_")
PROGRAMS = {"postgres", "nats", "valkey", "web", "worker", "upkeep", "beat", "bridge"}


class Home:
    """Runs manage.py on one home, in the environment of a person who has set nothing."""

    def __init__(self, path, checkout=CHECKOUT):
        self.path = path
        self.manage = [sys.executable, str(checkout / "manage.py")]
        self.port = ports.free_port()
        self.up = None

    def environ(self, **more):
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        own = {"MISTERSMITH_HOME": str(self.path), "DEMO": "0", "MISTERSMITH_WEB_PORT": str(self.port)}
        return {**inherited, **own, **more}

    def run(self, *arguments, **environ):
        argv = [*self.manage, *arguments]
        return subprocess.run(
            argv, env=self.environ(**environ), cwd="/", capture_output=True, text=True, timeout=120
        )

    def answer(self, *arguments):
        return json.loads(self.run(*arguments, "--json").stdout)

    def start(self):
        """Run `up` in the foreground; return what it said up to its banner."""
        self.up = subprocess.Popen(
            [*self.manage, "up"],
            env=self.environ(),
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        said = ""
        for line in self.up.stdout:
            said += line
            if "stop  " in line:
                return said
        raise AssertionError(said)

    def processes(self):
        """Return every process that works for this home."""
        supervisord = psutil.Process(int((self.path / "supervisord.pid").read_text()))
        return [supervisord, *supervisord.children(recursive=True)]

    def url(self):
        embedded = dict(
            line.split("=", 1) for line in (self.path / "embedded.env").read_text().splitlines()[1:]
        )
        return embedded["DATABASE_URL"]

    def end(self):
        if (self.path / "supervisord.pid").exists():
            self.run("down")
        if self.up:
            self.up.kill()
            self.up.communicate()


@pytest.fixture
def home(own_home):
    home = Home(own_home)
    yield home
    home.end()


@pytest.fixture(scope="module")
def background(make_home):
    """An `up` in the background that several tests look at; `.said` is what it said."""
    home = Home(make_home())
    up = home.run("up", DETACH="1")
    home.said = up.stderr
    assert up.returncode == 0, up.stderr
    yield home
    home.end()


def assert_all_gone(processes):
    _gone, alive = psutil.wait_procs(processes, timeout=60)
    alive = [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    assert not alive


def login_page(home):
    with urllib.request.urlopen(f"http://127.0.0.1:{home.port}/admin/login/", timeout=10) as page:
        return page.status


# -- one that runs in the background -----------------------------------------------------------------------
def test_banner_shows_the_password_and_the_pages_answer(background):
    assert re.search(r"password  \S+ \(shown once\)", background.said)
    assert f"http://127.0.0.1:{background.port}/" in background.said
    assert login_page(background) == 200


def test_status_lists_processes_and_servers_without_passwords(background):
    status = background.answer("status")
    assert status["ok"], status
    assert {row["name"] for row in status["items"] if row["kind"] == "process"} == PROGRAMS
    assert all(row["version"] for row in status["items"] if row["kind"] == "server")
    assert background.url().split(":")[2].split("@")[0] not in json.dumps(status)


def test_second_up_says_where_the_first_one_runs(background):
    second = background.run("up")
    assert second.returncode == 2
    where = f"already runs in {background.path}: at http://127.0.0.1:{background.port}/, process"
    assert where in second.stderr
    assert "HINT: stop it with `make down`" in second.stderr


def test_logs_are_prefixed_and_kept(background):
    logs = background.run("logs", "postgres")
    assert re.search("^postgres \\| .*database system is ready", logs.stdout, re.MULTILINE)
    unknown = background.run("logs", "nobody")
    assert unknown.returncode == 2
    assert "there are: " in unknown.stderr


def test_doctor_finds_nothing_wrong(background):
    doctor = background.answer("doctor")
    assert not [row for row in doctor["items"] if not row["ok"]]


def test_admin_password_replaces_the_old_one(background):
    rows = [background.answer("admin_password")["items"][0] for _ in range(2)]
    assert [row["user"] for row in rows] == ["admin", "admin"]
    assert rows[0]["password"] != rows[1]["password"]


def test_killed_processes_come_back(background):
    before = pids(background)
    for pid in before.values():
        psutil.Process(pid).kill()
    deadline = time.monotonic() + 60
    while not background.answer("status")["ok"] or set(pids(background).values()) & set(before.values()):
        assert time.monotonic() < deadline
    assert login_page(background) == 200


def pids(home):
    return {row["name"]: row["pid"] for row in home.answer("status")["items"] if row["kind"] == "process"}


def test_down_waits_until_no_process_is_left(background):
    processes = background.processes()
    down = background.run("down")
    assert (down.returncode, "no process is left" in down.stdout) == (0, True)
    assert_all_gone(processes)
    again = background.run("down")
    assert (again.returncode, "nothing was running" in again.stdout) == (0, True)
    assert background.run("status").returncode == 1


# -- one in the foreground ---------------------------------------------------------------------------------
@pytest.mark.parametrize("ends", [pytest.param(end, marks=LATER) for end in ("supervisord", "up")])
def test_whatever_ends_it_nothing_is_left_running_and_nothing_is_lost(home, ends):
    home.start()
    with psycopg.connect(home.url(), autocommit=True) as session:
        session.execute("CREATE TABLE kept AS SELECT 42 AS x")
    processes = home.processes()
    {"supervisord": kill_supervisord, "up": kill_up}[ends](home)
    assert_all_gone(processes)
    assert "as set before" in home.start()
    with psycopg.connect(home.url()) as session:
        assert session.execute("SELECT x FROM kept").fetchone() == (42,)
    processes = home.processes()
    press_ctrl_c(home)
    assert_all_gone(processes)


def kill_supervisord(home):
    home.processes()[0].kill()
    said, _ = home.up.communicate(timeout=60)
    assert home.up.returncode == 1
    assert "the supervisor ended with -9" in said


def kill_up(home):
    home.up.kill()
    home.up.communicate(timeout=60)


def press_ctrl_c(home):
    home.up.send_signal(signal.SIGINT)
    said, _ = home.up.communicate(timeout=60)
    assert home.up.returncode == 0, said
    assert "stopped; the data stays" in said


# -- bad input ----------------------------------------------------------------------------------------------
def test_taken_web_port_that_was_asked_for_is_an_error(home):
    with socket.create_server(("127.0.0.1", home.port)):
        up = home.run("up", DETACH="1")
    assert up.returncode == 2
    assert f"port {home.port} on 127.0.0.1 is taken" in up.stderr
    assert "HINT: " in up.stderr
    assert not (home.path / "postgres").exists()


@pytest.mark.parametrize(
    ("environ", "message", "hint"),
    [
        (
            {"DATABASE_URL": "postgresql://nobody:wrong@127.0.0.1:1/none"},
            "PostgreSQL: ",
            "correct DATABASE_URL",
        ),
        ({"DATABASE_URL": "nonsense"}, "DATABASE_URL", "postgresql://"),
        ({"NATS_URL": "nats://127.0.0.1:1"}, "NATS at nats://127.0.0.1:1", "correct NATS_URL"),
        (
            {"CELERY_BROKER_URL": "redis://127.0.0.1:1/0"},
            "broker at redis://127.0.0.1:1/0",
            "CELERY_BROKER_URL",
        ),
        ({"MISTERSMITH_WEB_PORT": "eighty"}, "MISTERSMITH_WEB_PORT", "1 to 65535"),
        ({"DEBUG": "1", "MISTERSMITH_WEB_BIND": "192.0.2.1"}, "DEBUG is on", "keep MISTERSMITH_WEB_BIND"),
        ({"MISTERSMITH_HOME": "/proc/nowhere"}, "/proc/nowhere", "MISTERSMITH_HOME"),
    ],
)
def test_wrong_value_in_the_environment_is_named(home, environ, message, hint):
    up = home.run("up", DETACH="1", **environ)
    assert up.returncode == 2, up.stderr
    assert message in up.stderr
    assert hint in up.stderr.split("HINT:")[-1]
    assert "Traceback" not in up.stderr
    assert_all_gone(processes_of(home.path))


def processes_of(path):
    return [process for process in psutil.process_iter() if str(path) in " ".join(command_line(process))]


def command_line(process):
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_full_disk_is_an_error_with_a_hint(home):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m,mode=711", "tmpfs", home.path], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this machine does not let root mount")
    try:
        up = home.run("up", DETACH="1")
        assert up.returncode == 2, up.stderr
        assert "disk full: " in up.stderr
        assert "HINT: free some space" in up.stderr
    finally:
        subprocess.run(["umount", home.path], check=True)
