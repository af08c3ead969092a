"""Talks to the supervisord of a home."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

import psutil
from supervisor.xmlrpc import SupervisorTransport

from cockpit.servers.base import POLL_SECONDS, leashed
from cockpit.supervision.configuration import configuration_path, socket_path
from pg.errors import Unreachable

STARTING, RUNNING = "STARTING", "RUNNING"
NOT_YET = {"STOPPED", STARTING, "BACKOFF"}


@dataclass(frozen=True)
class ProcessState:
    """What supervisord knows of a process. `uptime_seconds` is None while it does not run."""

    name: str
    state: str
    pid: int | None
    uptime_seconds: int | None


class Control:
    """supervisord's remote control over its unix socket. Raises OSError when none listens."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def call(self, name: str, *arguments: Any) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{socket_path(self.home)}")
        with ServerProxy("http://127.0.0.1", transport=transport) as proxy:
            return getattr(proxy.supervisor, name)(*arguments)

    def pid(self) -> int:
        return int(self.call("getPID"))

    def is_listening(self) -> bool:
        try:
            return bool(self.call("getPID"))
        except (OSError, Fault):
            return False

    def states(self) -> list[ProcessState]:
        return [process_state(info) for info in self.call("getAllProcessInfo")]

    def state(self, name: str) -> str:
        return next(process.state for process in self.states() if process.name == name)

    def start(self, name: str) -> None:
        """Start a program, or all of a group (`"apps:*"`), without waiting for it."""
        if name.endswith(":*"):
            self.call("startProcessGroup", name.removesuffix(":*"), False)
        else:
            self.call("startProcess", name, False)

    def is_coming(self, name: str) -> bool:
        """Tell whether the program runs or is still being started."""
        return self.state(name) in NOT_YET | {RUNNING}

    def processes(self) -> list[psutil.Process]:
        """Return supervisord and all that it has started, for waiting until they are gone."""
        try:
            supervisord = psutil.Process(self.pid())
            return [supervisord, *supervisord.children(recursive=True)]
        except (OSError, Fault, psutil.NoSuchProcess):
            return []


def process_state(info: dict[str, Any]) -> ProcessState:
    running = info["statename"] in (STARTING, RUNNING) and info["pid"]
    uptime = int(info["now"] - info["start"]) if running else None
    return ProcessState(info["name"], info["statename"], info["pid"] or None, uptime)


def start_supervisord(
    home: Path, lock: int, environ: dict[str, str], detached: bool
) -> subprocess.Popen[bytes]:
    """Start supervisord in a session of its own; unless `detached`, it ends with us. It keeps `lock` open."""
    argv = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(configuration_path(home))]
    with (home / "log" / "supervisord.out").open("wb") as out:
        return subprocess.Popen(
            leashed(argv, "0" if detached else "TERM", os.getpid()),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environ,
            cwd="/",
            pass_fds=(lock,),
            start_new_session=True,
        )


def wait_for(what: str, is_so: Callable[[], bool], timeout_seconds: float, hint: str) -> None:
    """Return when `is_so` says yes; raise Unreachable at the deadline."""
    deadline = time.monotonic() + timeout_seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise Unreachable(f"{what}: not within {timeout_seconds:g} s", hint)
        time.sleep(POLL_SECONDS)
