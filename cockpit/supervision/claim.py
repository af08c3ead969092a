"""One `up` per home: whoever runs it holds a lock, and so does its supervisord, until both are gone."""

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from cockpit.servers.base import ServerError, write_private


@dataclass(frozen=True)
class Claim:
    """What the running `up` says about itself. `url` is empty until the pages are there."""

    pid: int
    url: str = ""


def take(home: Path) -> int:
    """Return the open lock file (a number, to be handed to supervisord). Raises ServerError when another `up`
    runs here, saying where."""
    home.mkdir(mode=0o755, parents=True, exist_ok=True)
    number = os.open(lock_path(home), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(number)
        first = read(home)
        where = f"at {first.url}, " if first.url else ""
        raise ServerError(
            f"Mister Smith already runs in {home}: {where}process {first.pid}",
            "stop it with `make down`, or run a second one with another MISTERSMITH_HOME",
        ) from error
    return number


def is_taken(home: Path) -> bool:
    try:
        with lock_path(home).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def write(home: Path, claim: Claim) -> None:
    write_private(home / "up.json", json.dumps(asdict(claim)))


def read(home: Path) -> Claim:
    """Return what the last `up` wrote; pid 0 when there was none."""
    try:
        return Claim(**json.loads((home / "up.json").read_text()))
    except (OSError, ValueError, TypeError):
        return Claim(0)


def lock_path(home: Path) -> Path:
    return home / "up.lock"
