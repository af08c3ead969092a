"""Brings everything up in order, and down again."""

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from cockpit.servers import Server, ServerError, all_servers, ports
from cockpit.servers.base import POLL_SECONDS, write_private
from cockpit.supervision import claim
from cockpit.supervision.configuration import write_configuration
from cockpit.supervision.control import Control, start_supervisord, wait_for
from cockpit.supervision.programs import APPS, app_programs, listen_address, server_programs
from pg.errors import Unreachable

DOWN_SECONDS = 180
Say = Callable[[str], None]


class PreparationFailed(Exception):
    """`manage.py prepare` has said on stderr what is wrong; `returncode` is its exit code."""

    def __init__(self, returncode: int) -> None:
        super().__init__(f"prepare ended with {returncode}")
        self.returncode = returncode


@dataclass(frozen=True)
class Plan:
    """What one `up` runs. `checkout` holds manage.py; `wait_seconds` is the patience with each process."""

    home: Path
    checkout: Path
    bind: str
    port: int
    with_demo: bool
    detached: bool
    wait_seconds: int
    servers: Sequence[Server] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where a browser on this machine finds the pages."""
        anywhere = self.bind in ("0.0.0.0", "::")  # noqa: S104  (compared, not bound)
        return f"http://{listen_address('127.0.0.1' if anywhere else self.bind, self.port)}/"


@dataclass
class Started:
    """Everything runs. `password` is the administrator's when this start has made him, else empty."""

    plan: Plan
    supervisord: "subprocess.Popen[bytes]"
    password: str = ""


# -- plan ---------------------------------------------------------------------------------------------------
def embedded_servers(home: Path, environ: Mapping[str, str]) -> list[Server]:
    """Return the servers that have no URL in the environment. A URL that `<home>/embedded.env` brought into the
    environment is our own of an earlier start."""
    ours = read_embedded(home)
    return [
        server
        for server in all_servers(home)
        if environ.get(server.variable, "") in ("", ours.get(server.variable))
    ]


def read_embedded(home: Path) -> dict[str, str]:
    path = home / "embedded.env"
    lines = path.read_text().splitlines() if path.is_file() else []
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def choose_web_port(bind: str, port: int, explicit: bool) -> int:
    """Return `port`, or, unless it was asked for explicitly, the next free one. Raises ServerError."""
    if ports.is_free(port, bind):
        return port
    if explicit:
        raise ServerError(
            f"port {port} on {bind} is taken by another program",
            "end that program, or set MISTERSMITH_WEB_PORT to another port",
        )
    for other in range(port + 1, port + 100):
        if ports.is_free(other, bind):
            return other
    raise ServerError(f"no free port from {port} to {port + 99} on {bind}", "set MISTERSMITH_WEB_PORT")


# -- up -----------------------------------------------------------------------------------------------------
def bring_up(plan: Plan, lock: int, say: Say) -> Started:
    """Start everything and wait until the pages answer. When a step fails, all that was started is stopped
    before the error goes on."""
    claim.write(plan.home, claim.Claim(os.getpid()))
    urls = prepare_servers(plan, say)
    environ = {**os.environ, **urls, "MISTERSMITH_HOME": str(plan.home), "PYTHONUNBUFFERED": "1"}
    programs = server_programs(plan.servers)
    programs += app_programs(plan.checkout, plan.bind, plan.port, plan.with_demo)
    write_configuration(plan.home, plan.checkout, programs)
    started = Started(plan, start_supervisord(plan.home, lock, environ, plan.detached))
    try:
        start_servers(started, say)
        started.password = prepare_installation(plan, environ)
        start_apps(started, say)
    except BaseException:
        stop(started)
        raise
    claim.write(plan.home, claim.Claim(started.supervisord.pid if plan.detached else os.getpid(), plan.url))
    return started


def prepare_servers(plan: Plan, say: Say) -> dict[str, str]:
    """Make data and configuration of the embedded servers; return, and write for other commands, their URLs."""
    for server in plan.servers:
        started_at = time.monotonic()
        server.prepare()
        say(f"{server.name}: prepared{seconds_since(started_at)}")
    urls = {server.variable: server.url() for server in plan.servers}
    lines = ["# written by `manage.py up`: the servers that it started\n"]
    write_private(
        plan.home / "embedded.env", "".join(lines + [f"{name}={url}\n" for name, url in urls.items()])
    )
    return urls


def start_servers(started: Started, say: Say) -> None:
    control, patience = Control(started.plan.home), started.plan.wait_seconds
    hint = f"see {started.plan.home}/log/supervisord.out"
    wait_for("the supervisor answers", lambda: listens_or_ended(control, started.supervisord), patience, hint)
    for server in started.plan.servers:
        started_at = time.monotonic()
        control.start(server.name)
        server.wait_ready(patience, lambda name=server.name: control.is_coming(name))  # type: ignore[misc]
        say(f"{server.name}: {server.version()} answers{seconds_since(started_at)}")


def listens_or_ended(control: Control, supervisord: "subprocess.Popen[bytes]") -> bool:
    if supervisord.poll() is not None:
        raise Unreachable("the supervisor ended at once", f"see {control.home}/log/supervisord.out")
    return control.is_listening()


def prepare_installation(plan: Plan, environ: Mapping[str, str]) -> str:
    """Run `manage.py prepare`, which shows its own progress; return the password of a new administrator."""
    argv = [sys.executable, str(plan.checkout / "manage.py"), "prepare", "--json"]
    done = subprocess.run(argv, env=environ, cwd=plan.checkout, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise PreparationFailed(done.returncode)
    return str(
        next((item["password"] for item in json.loads(done.stdout)["items"] if item.get("password")), "")
    )


def start_apps(started: Started, say: Say) -> None:
    plan, control = started.plan, Control(started.plan.home)
    started_at = time.monotonic()
    control.start(f"{APPS}:*")
    hint = f"see {plan.home}/log/web.log"
    wait_for(
        f"{plan.url} answers", lambda: answers(plan) or not runs(control, "web"), plan.wait_seconds, hint
    )
    if not answers(plan):
        raise Unreachable("the web server ended while starting", hint)
    wait_for("all processes run", lambda: not starting(control), plan.wait_seconds, f"see {plan.home}/log")
    for process in control.states():
        if process.state not in ("RUNNING", "EXITED"):
            raise Unreachable(f"{process.name} does not start", f"see {plan.home}/log/{process.name}.log")
    say(f"processes: run{seconds_since(started_at)}")


def runs(control: Control, name: str) -> bool:
    return control.is_coming(name)


def starting(control: Control) -> bool:
    return any(process.state in ("STARTING", "BACKOFF") for process in control.states())


def answers(plan: Plan) -> bool:
    """Tell whether the login page comes (in production: a redirect to its secure address)."""
    host, _, port = plan.url.removeprefix("http://").rstrip("/").rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=10)
    try:
        connection.request("GET", "/admin/login/")
        return connection.getresponse().status in (200, 301)
    except OSError:
        return False
    finally:
        connection.close()


def seconds_since(started_at: float) -> str:
    return f" ({time.monotonic() - started_at:.1f} s)"


# -- down ---------------------------------------------------------------------------------------------------
def stop(started: Started) -> int:
    """Stop everything that this process started, our processes first, PostgreSQL last; return supervisord's
    exit code."""
    if started.supervisord.poll() is None:
        started.supervisord.terminate()
    code = started.supervisord.wait(DOWN_SECONDS)
    wait_until_gone(started.plan.home, [])
    return code


def bring_down(home: Path) -> bool:
    """Stop what runs in `home`, whoever started it, and wait until all of it is gone. False: nothing ran."""
    ran = claim.is_taken(home) or any(server.is_running() for server in all_servers(home))
    control = Control(home)
    processes = control.processes()
    if processes:
        processes[0].terminate()
    elif claim.is_taken(home):
        interrupt_start(home)
    wait_until_gone(home, processes)
    return ran


def interrupt_start(home: Path) -> None:
    """Ask an `up` that has no supervisord yet to stop."""
    if pid := claim.read(home).pid:
        with suppress(psutil.NoSuchProcess):
            psutil.Process(pid).terminate()


def wait_until_gone(home: Path, processes: Sequence[psutil.Process]) -> None:
    """Return when no process of `home` is left. Raises Unreachable with the names of those that stay."""
    deadline = time.monotonic() + DOWN_SECONDS
    while still := those_left(home, processes):
        if time.monotonic() > deadline:
            raise Unreachable(f"still running: {', '.join(still)}", f"see {home}/log/supervisord.log")
        time.sleep(POLL_SECONDS)


def those_left(home: Path, processes: Sequence[psutil.Process]) -> list[str]:
    names = [server.name for server in all_servers(home) if server.is_running()]
    return names + [f"process {process.pid}" for process in processes if is_alive(process)]


def is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
