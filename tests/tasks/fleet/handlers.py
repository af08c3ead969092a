"""What the worker processes of these tests can do. `dir` in a payload is where a handler meets its test."""

import os
import signal
import threading
import time
from pathlib import Path

from django.db import connection

from tasks.handlers import PermanentFailure, handler

HOARD = []


@handler("fleet.pid")
def pid(context):
    return os.getpid()


@handler("fleet.fails", max_retries=1, retry_delay_seconds=0)
def fails(context):
    raise RuntimeError("out of luck")


@handler("fleet.never", max_retries=5, retry_delay_seconds=0)
def never(context):
    raise PermanentFailure("there is no such thing")


@handler("fleet.meets", max_retries=1, retry_delay_seconds=0)
def meets(context):
    """Say that it runs, then run until the test lets it go."""
    place = Path(context.payload["dir"])
    (place / f"running.{context.attempt}").write_text(str(os.getpid()))
    while not (place / f"go.{context.attempt}").exists():
        time.sleep(0.01)
    return context.attempt


@handler("fleet.deaf", max_retries=0, timeout_seconds=0.5)
def deaf(context):
    """Go on whatever happens."""
    (Path(context.payload["dir"]) / "running.1").write_text(str(os.getpid()))
    while True:
        try:
            while True:
                time.sleep(0.01)
        except Exception:
            context.logger.info("not listening")


@handler("fleet.poison", max_retries=1, retry_delay_seconds=0)
def poison(context):
    """Take the process along, each time."""
    os.kill(os.getpid(), signal.SIGKILL)


@handler("fleet.mixed", max_retries=0)
def mixed(context):
    """A short task, but for one that takes its process along."""
    if context.payload == "poison":
        os.kill(os.getpid(), signal.SIGKILL)


@handler("fleet.misbehaves", max_retries=0)
def misbehaves(context):
    """What a handler should not do, by its payload."""
    return MISDEEDS[context.payload]()


def fork():
    """The child goes on as if it were the worker."""
    return "child" if os.fork() == 0 else "parent"


def leave_a_transaction_open():
    connection.set_autocommit(False)
    connection.ensure_connection()
    connection.cursor().execute("SELECT 1")


def leave_a_thread():
    threading.Thread(target=threading.Event().wait, daemon=True).start()


def give_up(error):
    raise error


def recurse():
    return recurse()


MISDEEDS = {
    "fork": fork,
    "leave a thread": leave_a_thread,
    "leave a transaction open": leave_a_transaction_open,
    "SystemExit": lambda: give_up(SystemExit(3)),
    "KeyboardInterrupt": lambda: give_up(KeyboardInterrupt()),
    "GeneratorExit": lambda: give_up(GeneratorExit()),
    "recurse without end": recurse,
    "return a set": lambda: {1},
    "return NaN": lambda: float("nan"),
    "return U+0000": lambda: "\0",
    "return half a character": lambda: "\ud800",
    "return a number without end": lambda: 10**140_000,
}


@handler("fleet.prints", max_retries=0)
def prints(context):
    line = "x" * 999
    for _ in range(context.payload["lines"]):
        print(line)  # noqa: T201
    return context.payload["lines"]


@handler("fleet.leaks", max_retries=0)
def leaks(context):
    """Keep the memory, as a handler with a cache that never forgets would."""
    HOARD.append(bytearray(os.urandom(1 << 20)) * context.payload["size_mb"])
    return os.getpid()


@handler("fleet.naps", max_retries=50, retry_delay_seconds=0)
def naps(context):
    """`victim`: a file; whoever finds none writes its pid there, and sleeps for longer than a test will wait."""
    victim = context.payload.get("victim")
    if victim and not Path(victim).exists():
        Path(victim).write_text(str(os.getpid()))
        time.sleep(600)
    time.sleep(context.payload["seconds"])
    return context.attempt
