"""Start the processes that a drain needs, and wait for what they have done."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
PEERS = ROOT / ".bench"
LOOK_SECONDS = 0.01


@contextmanager
def running(log: Path, *command: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python program in the checkout; end it and its children with the block."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, stdout=out, stderr=out, env={**os.environ, **environ}
        )
    try:
        yield process
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for member in [process, *family]:
            member.kill()
        process.wait()


def wait_for(look: Callable[[], bool], seconds: float = 300, every_seconds: float = LOOK_SECONDS) -> float:
    """Return the moment (perf_counter) at which `look` was true; raise TimeoutError after `seconds`."""
    deadline = time.perf_counter() + seconds
    while not look():
        if time.perf_counter() > deadline:
            raise TimeoutError(f"not seen within {seconds} s")
        time.sleep(every_seconds)
    return time.perf_counter()


def peer_path() -> str:
    return f"{PEERS}{os.pathsep}{ROOT}"
