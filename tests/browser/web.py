"""The web process as `up` runs it, on a database of its own, for a browser."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cockpit.servers import ports
from cockpit.servers.base import leashed
from cockpit.supervision.programs import web_server
from tests.databases import Database, lock_file

ROOT = Path(__file__).parents[2]
START_SECONDS = 60
EMPTY = '<!doctype html><html lang="en"><title>empty</title><link rel="icon" href="data:,">'


@dataclass(frozen=True)
class Web:
    """A web process that answers. `url` has no slash at its end; `log` is the file with all it has said."""

    url: str
    database: Database
    log: Path


@contextmanager
def serving(database: Database, home: Path, secret_key: str) -> Iterator[Web]:
    """Run the web process on `database` until the block ends; it dies with this process, too."""
    environ = {**os.environ, **database.environ, "MISTERSMITH_HOME": str(home), "SECRET_KEY": secret_key}
    collect_static_files(home, environ)
    port = ports.free_port()
    web = Web(f"http://127.0.0.1:{port}", database, home / f"{database.name}.log")
    with web.log.open("wb") as log:
        command = leashed(web_server("127.0.0.1", port), "TERM", os.getpid())
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=log)
    try:
        wait_until_it_answers(web, process)
        yield web
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def collect_static_files(home: Path, environ: dict[str, str]) -> None:
    """Once for all processes of a run, as `prepare` does: compressed, and named by their contents."""
    with lock_file(home / "static.lock"):
        if not (home / "static" / "staticfiles.json").exists():
            command = [sys.executable, "manage.py", "collectstatic", "--no-input", "--verbosity=0"]
            subprocess.run(command, cwd=ROOT, env=environ, check=True)
            (home / "static" / "empty.html").write_text(EMPTY)


def wait_until_it_answers(web: Web, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{web.url}/admin/login/", timeout=START_SECONDS):  # noqa: S310
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
    raise AssertionError(f"the web process does not answer:\n{web.log.read_text()}")
