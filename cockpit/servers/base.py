"""What every embedded server is: a value over a home directory."""

import fcntl
import os
import secrets
import shutil
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pg
from cockpit.servers import ports
from pg.errors import MisterSmithError, Unreachable

LEASH = Path(pg.__file__).with_name("leash.py")
POLL_SECONDS = 0.02


class ServerError(MisterSmithError):
    """An embedded server can't be prepared or started; nothing was changed half-way."""


@dataclass(frozen=True)
class Server(ABC):
    """One embedded server. `home` is MISTERSMITH_HOME; all that it keeps lies in `<home>/<name>/`."""

    home: Path

    name: ClassVar[str]
    variable: ClassVar[str]  # the environment variable that names the user's own server instead
    stop_signal: ClassVar[str] = "TERM"
    stop_seconds: ClassVar[int] = 30  # a clean stop may take this long

    @property
    def directory(self) -> Path:
        return self.home / self.name

    def prepare(self, timeout_seconds: float = 60) -> None:
        """Make directories, password, configuration and port; first wait for a server that is still stopping.

        Running it again changes nothing that is in order. Raises ServerError with a hint.
        """
        self.make_directory()
        self.wait_for_predecessor(timeout_seconds)
        self.configure()

    @abstractmethod
    def configure(self) -> None:
        """Make what the server needs inside `directory`; nothing runs on it now."""

    def needed_bytes(self) -> int:
        """Return how much room the disk must have."""
        return 100 << 20

    @property
    def lock(self) -> Path:
        return self.directory / "lock"

    @abstractmethod
    def foreground(self) -> list[str]:
        """Return the server's own argument list: it stays in the foreground and logs to standard error."""

    @abstractmethod
    def url(self) -> str:
        """Return the URL with credentials; `prepare` came first."""

    @abstractmethod
    def version(self) -> str:
        """Ask the running server for its version, which proves that it takes work.

        Raises OSError, ValueError or the driver's own error while it does not.
        """

    def account(self) -> str | None:
        """Return the user that the server must run as; None: whoever starts it."""
        return None

    def command(self, parent: str | int = "") -> list[str]:
        """Return what to run: the server under its leash, so that it stops when `parent` (a pid, default
        whoever starts it) is killed, and holds `lock` for as long as it or a child of its own lives."""
        return leashed(self.foreground(), self.stop_signal, parent, self.account() or "", self.lock)

    def is_ready(self) -> bool:
        try:
            return bool(self.version())
        except Exception:  # whatever the driver raises: it does not answer yet
            return False

    def wait_ready(self, timeout_seconds: float, is_alive: Callable[[], bool] = lambda: True) -> None:
        """Return when the server answers; raise Unreachable at the deadline or when `is_alive` says False."""
        deadline = time.monotonic() + timeout_seconds
        while not self.is_ready():
            if not is_alive():
                raise Unreachable(f"{self.name} ended while starting", f"see its log in {self.home}/log")
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"{self.name} does not answer after {timeout_seconds:g} s",
                    f"see its log in {self.home}/log; a slow disk may need MISTERSMITH_START_SECONDS=300",
                )
            time.sleep(POLL_SECONDS)

    def password(self) -> str:
        """Return the generated password, kept in a file that only its owner reads."""
        return keep_private(self.directory / "password", lambda: secrets.token_urlsafe(24))

    def port(self, name: str = "port") -> int:
        """Return the port that `prepare` chose."""
        return int((self.directory / name).read_text())

    def choose_port(self, name: str = "port") -> int:
        """Keep the port of the last run, or choose another free one when someone else has it."""
        path = self.directory / name
        kept = int(path.read_text()) if path.is_file() and path.read_text().strip().isdigit() else 0
        port = kept if kept and ports.is_free(kept) else ports.free_port()
        write_private(path, f"{port}\n")
        return port

    def wait_for_predecessor(self, timeout_seconds: float) -> None:
        """Return when nothing runs on our directory any more; raise ServerError at the deadline."""
        deadline = time.monotonic() + timeout_seconds
        while self.is_running():
            if time.monotonic() > deadline:
                raise ServerError(
                    f"{self.name} already runs on {self.directory}",
                    "stop it: run `make down` where it was started",
                )
            time.sleep(POLL_SECONDS)

    def is_running(self) -> bool:
        """Tell whether a server started by `command`, or a child of it, lives."""
        if not self.lock.is_file():
            return False
        with self.lock.open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def make_directory(self) -> None:
        """Make `directory`; raise ServerError when the disk has less than `needed_bytes` to spare."""
        try:
            self.directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        except OSError as error:
            raise ServerError(
                f"{self.directory}: {error.strerror}", "set MISTERSMITH_HOME elsewhere"
            ) from error
        free, needed = shutil.disk_usage(self.directory).free, self.needed_bytes()
        if free < needed:
            raise ServerError(
                f"disk full: {self.directory} has {free >> 20} MB free, {self.name} needs {needed >> 20} MB",
                "free some space, or set MISTERSMITH_HOME to a directory on a larger disk",
            )


def leashed(
    argv: list[str], signal: str, parent: str | int = "", user: str = "", lock: Path | str = ""
) -> list[str]:
    """Return `argv` run by the leash (see leash.py): it gets `signal` when its parent dies."""
    given = {"parent": parent, "user": user, "lock": lock}
    options = [f"--{name}={value}" for name, value in given.items() if value]
    return [sys.executable, "-IS", str(LEASH), *options, signal, "--", *argv]


def keep_private(path: Path, make: Callable[[], str]) -> str:
    """Return the text in `path`; when there is none yet, write what `make` returns (mode 0600)."""
    if not path.is_file():
        write_private(path, make())
    return path.read_text()


def write_private(path: Path, text: str) -> None:
    """Replace the file `path`, readable by its owner alone. A reader sees the old text or the new one."""
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(text)
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise ServerError(
            f"{path}: {error.strerror}", "free some space, or check the folder's owner"
        ) from error
