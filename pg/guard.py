"""Keeps our writes away from a server that is not the primary, or not any more.

A standby that is promoted begins a new timeline. The newest one that this process has seen of a cluster is
remembered, and in a file for the processes after it: a server that takes writes on an older one was the primary once,
and what is written there is lost. Its connections are refused, and those that are open are cut, in mid-statement if
need be.
"""

import json
import os
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString
from weakref import WeakKeyDictionary

import psycopg

# the timeline of a primary is that of the WAL it writes: pg_control_checkpoint() tells of a promotion only later
LOOK = (
    "SELECT r.is_standby, CASE WHEN r.is_standby THEN 0"
    " ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END,"
    " (SELECT system_identifier::text FROM pg_control_system())"
    " FROM (SELECT pg_is_in_recovery() AS is_standby) r"
)


class NotPrimary(psycopg.OperationalError):
    """The server answers, and must not be written to. An outage like others to whoever waits for the primary."""


@dataclass(frozen=True)
class Look:
    """What a server says of itself. `timeline` is 0 for a standby."""

    is_standby: bool
    timeline: int
    system_id: str


def look_at(connection: psycopg.Connection[Any]) -> Look:
    """Ask the server; one round trip."""
    return Look(*one_row(connection, LOOK))


def one_row(connection: psycopg.Connection[Any], query: LiteralString) -> tuple[Any, ...]:
    return tuple(connection.execute(query).fetchone() or ())


class Guard:
    """The newest timeline by cluster, and the open connections that write. `path`: where it is remembered; None:
    nowhere. Any thread may call it."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.newest: dict[str, int] = {}
        self.lock = threading.Lock()
        self.open: WeakKeyDictionary[psycopg.Connection[Any], tuple[str, int]] = WeakKeyDictionary()

    def admit(
        self, connection: psycopg.Connection[Any], look: Look, place: str, must_lead: bool, hosts: str = ""
    ) -> None:
        """Let a new connection be written to. Raises NotPrimary for a standby (where `must_lead`), and for a server
        on an older timeline than seen. `place`: host and port; `hosts`: all of them, as the settings name them: a
        copy of the cluster under another address is another one."""
        if look.is_standby:
            if must_lead:
                raise NotPrimary(f"{place} is a standby: it takes no writes")
            return
        cluster = f"{look.system_id}@{hosts or place}"
        known = max(self.newest.get(cluster, 0), self.recall(cluster))
        if look.timeline < known:
            raise NotPrimary(
                f"{place} is on timeline {look.timeline}, but timeline {known} was seen: it was the primary once,"
                " and what is written there is lost. HINT: stop it, or let it follow the new primary (pg_rewind); if it"
                f" is meant to be the primary now (restored from a backup), remove {self.path} and start our processes"
                " anew"
            )
        with self.lock:
            self.open[connection] = (cluster, look.timeline)
        self.learn(cluster, look.timeline)

    def learn(self, cluster: str, timeline: int) -> None:
        """Remember a timeline; when it is newer than those seen, cut the connections to servers on older ones."""
        with self.lock:
            if timeline <= self.newest.get(cluster, 0):
                return
            self.newest[cluster] = timeline
            old = [one for one, (where, when) in self.open.items() if where == cluster and when < timeline]
        self.remember(cluster, timeline)
        for connection in old:
            cut(connection)

    def is_outdated(self, connection: psycopg.Connection[Any]) -> bool:
        """Tell whether the server of a connection was the primary once."""
        cluster, timeline = self.open.get(connection, ("", 0))
        return timeline < self.newest.get(cluster, 0)

    def writes(self, connection: psycopg.Connection[Any]) -> bool:
        """Tell whether a connection was admitted as one to the primary."""
        return connection in self.open

    # -- for the processes after us -------------------------------------------------------------------------
    def recall(self, cluster: str) -> int:
        """Return the newest timeline of the file; 0 where there is none that can be read."""
        return int(self.read().get(cluster, 0))

    def read(self) -> Mapping[str, int]:
        if self.path is None:
            return {}
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def remember(self, cluster: str, timeline: int) -> None:
        """Write a timeline beyond the first one; a file that cannot be written costs only the memory after a
        restart."""
        if self.path is None or timeline <= max(1, self.recall(cluster)):
            return
        fresh = self.path.with_name(f"{self.path.name}.{os.getpid()}.{threading.get_ident()}")
        with suppress(OSError):
            fresh.write_text(json.dumps({**self.read(), cluster: timeline}))
            fresh.replace(self.path)


def cut(connection: psycopg.Connection[Any]) -> None:
    """End a connection from another thread: whoever waits for its answer gets an error at once."""
    with suppress(OSError, psycopg.Error):
        twin = socket.socket(fileno=os.dup(connection.fileno()))
        with twin:
            twin.shutdown(socket.SHUT_RDWR)
