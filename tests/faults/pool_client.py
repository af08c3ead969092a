"""Writes and reads through our pools, for `tests/faults/cluster.py`: one JSON object per line for each thing done.

Run as `python -m tests.faults.pool_client WRITERS READERS`. A write is tried once: what failed may be written or not.
"""

import json
import os
import sys
import threading
import time
from uuid import uuid4

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
import django

django.setup()

from django.db import connection  # noqa: E402

from agents.models import Agent  # noqa: E402
from pg import reads  # noqa: E402
from pg.retry import retrying  # noqa: E402

PAUSE_SECONDS = 0.01
lock = threading.Lock()


def say(what: str, detail: object) -> None:
    with lock:
        sys.stdout.write(json.dumps({"what": what, "at": time.monotonic(), "detail": str(detail)}) + "\n")
        sys.stdout.flush()


def write(worker: int) -> None:
    """Each write takes a connection and gives it back, as a request does."""
    while True:
        new = uuid4()
        try:
            with connection.cursor() as cursor:
                cursor.execute("INSERT INTO written VALUES (%s, %s)", [new, worker])
            say("wrote", new)
        except Exception as error:
            say("failed", f"write: {type(error).__name__}: {error}")
        close()
        time.sleep(PAUSE_SECONDS)


def read(worker: int) -> None:
    """As a page does: from replicas, and again where the server went away."""
    while True:
        try:
            with reads.unit(), reads.from_replicas():
                say("read", retrying(ask))
        except Exception as error:
            say("failed", f"read: {type(error).__name__}: {error}")
        close()
        time.sleep(PAUSE_SECONDS)


def ask() -> str:
    rows = Agent.objects.all()
    alias = rows.db
    rows.using(alias).count()
    return alias


def close() -> None:
    """Give the connections back."""
    from django.db import connections

    for one in connections.all(initialized_only=True):
        try:
            one.close()
        except Exception as error:
            say("failed", f"close: {error}")


def main(writers: int, readers: int) -> None:
    for number in range(writers + readers):
        threading.Thread(target=write if number < writers else read, args=(number,), daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
