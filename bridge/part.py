"""What `bridge run` is made of: parts that work until they are told to stop, each in a thread of its own."""

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from django.db import InterfaceError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from bridge.hold import require_free
from bridge.outage import Outage
from bridge.session import open_session
from pg.errors import MisterSmithError

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.5
LOOK_SECONDS = 0.5
STOP_SECONDS = 25  # the supervisors kill after 30
# a session whose machine is gone must not keep what it holds: the server asks it after 2 s and gives up 2 s later
SESSION_SETTINGS = (
    "SET tcp_keepalives_idle = 2",
    "SET tcp_keepalives_interval = 1",
    "SET tcp_keepalives_count = 2",
)


class Part:
    """Calls `turn` again and again with a session of its own, which is new after each trouble with PostgreSQL.

    `prepare` is called before the first turn and after each trouble with NATS.
    """

    settings: tuple[str, ...] = SESSION_SETTINGS

    def __init__(self, name: str) -> None:
        self.name = name
        self.outage = Outage(name)
        self.is_stopping = False
        self.is_prepared = False

    def turn(self, db: BaseDatabaseWrapper) -> None:
        """Do one piece of work, or wait a moment (at most a second) for one."""
        raise NotImplementedError

    def prepare(self, db: BaseDatabaseWrapper) -> None:
        """Get ready. Raises MisterSmithError where that has to wait."""

    def end(self) -> None:
        """Give back what others shall have. Called when `run` ends because it was told to."""

    def figures(self) -> dict[str, Any]:
        """Return what operators want to know of this part."""
        return {}

    def stop(self) -> None:
        """End `run` after the piece in hand. Only sets a flag: a signal handler may call it."""
        self.is_stopping = True

    def run(self) -> None:
        """Work until stopped. Outages are logged once and waited for."""
        while not self.is_stopping:
            try:
                with self.open() as db:
                    self.work(db)
            except (OperationalError, InterfaceError) as error:
                self.outage.note(f"PostgreSQL: {error}".strip())
                self.is_prepared = False
                time.sleep(RETRY_SECONDS)
            finally:
                connections.close_all()  # of this thread: the rooms' functions use them
        self.end()

    def open(self) -> AbstractContextManager[BaseDatabaseWrapper]:
        """Give the session that `turn` gets."""
        return open_session((f"SET application_name = 'mistersmith {self.name}'", *self.settings))

    def work(self, db: BaseDatabaseWrapper) -> None:
        while not self.is_stopping:
            try:
                if not self.is_prepared:
                    require_free(db)
                    self.prepare(db)
                    self.is_prepared = True
                self.turn(db)
            except MisterSmithError as error:
                self.is_prepared = False
                self.outage.note(str(error))
                time.sleep(RETRY_SECONDS)


def run_parts(parts: Sequence[Any], is_stopping: threading.Event) -> bool:
    """Run all until `is_stopping` is set or one of them ends; return whether all ended because they were told to. Each
    has `run`, `stop` and a name."""
    threads = [threading.Thread(target=part.run, name=part.name, daemon=True) for part in parts]
    for thread in threads:
        thread.start()
    while not is_stopping.wait(LOOK_SECONDS) and all(thread.is_alive() for thread in threads):
        pass
    ended = [thread.name for thread in threads if not thread.is_alive()]
    for part in parts:
        part.stop()
    deadline = time.monotonic() + STOP_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if ended and not is_stopping.is_set():
        log.error("ended by itself: %s; see the error above", ", ".join(ended))
    return is_stopping.is_set() and not any(thread.is_alive() for thread in threads)
