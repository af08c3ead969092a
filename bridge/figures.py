"""What the parts of all bridges measured, for pages, metrics and checks: rows of bridge.processes.

Pages and metrics live in other processes than the bridge, so it writes its figures down every few seconds.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from bridge import connection
from bridge.clocks import Skew, read_skew
from bridge.part import Part
from bridge.session import execute
from pg.errors import Unreachable
from pg.uuid7 import uuid7

EVERY_SECONDS = 2.0
CLOCKS_SECONDS = 30.0
STEP_SECONDS = 0.2
FRESH_SECONDS = 10
FORGET_DAYS = 1

NOTE = """
INSERT INTO bridge.processes (process_id, host, pid, figures) VALUES (%s, %s, %s, %s::jsonb)
ON CONFLICT (process_id) DO UPDATE SET figures = EXCLUDED.figures, seen_at = now()
"""
READ = f"""
SELECT host, pid, started_at, seen_at, figures::text FROM bridge.processes
WHERE seen_at > now() - interval '{FRESH_SECONDS} seconds' ORDER BY started_at
"""


class Reporter(Part):
    """Writes down what the other parts measured."""

    def __init__(self, parts: Sequence[Any]) -> None:
        super().__init__("reporter")
        self.parts = parts
        self.process_id = uuid7()
        self.skew: Skew | None = None
        self._next_clocks = 0.0

    def turn(self, db: BaseDatabaseWrapper) -> None:
        """Write the figures and wait. A late or missing row only makes pages say that nobody is there."""
        if time.monotonic() >= self._next_clocks:
            self.compare_clocks(db)
        execute(db, NOTE, [self.process_id, socket.gethostname(), os.getpid(), json.dumps(self.collect())])
        execute(db, f"DELETE FROM bridge.processes WHERE seen_at < now() - interval '{FORGET_DAYS} days'")
        self.outage.end()
        began = time.monotonic()
        while not self.is_stopping and time.monotonic() - began < EVERY_SECONDS:
            time.sleep(STEP_SECONDS)

    def compare_clocks(self, db: BaseDatabaseWrapper) -> None:
        """Twice a minute. While NATS is away nobody knows: better no figure than an old one."""
        self._next_clocks = time.monotonic() + CLOCKS_SECONDS
        self.skew = None
        with contextlib.suppress(Unreachable):
            self.skew = read_skew(db)

    def collect(self) -> dict[str, Any]:
        found = {part.name: part.figures() for part in self.parts}
        link = connection.link()
        told: dict[str, float] = {"is_connected": link.is_connected(), "reconnects": link.reconnects}
        if self.skew:
            told["clock_ahead_ms"] = round(self.skew.seconds * 1000, 1)
            told["clock_apart_ms"] = round(self.skew.certain_seconds * 1000, 1)
        return {**found, "nats": told}


@dataclass(frozen=True)
class Bridge:
    """A bridge that runs. `figures`: by part."""

    host: str
    pid: int
    started_at: datetime
    seen_at: datetime
    figures: dict[str, dict[str, Any]]

    @property
    def name(self) -> str:
        return f"{self.host}:{self.pid}"


def read_bridges(db: BaseDatabaseWrapper) -> list[Bridge]:
    """Return the bridges that were seen in the last FRESH_SECONDS. One query."""
    return [
        Bridge(host, pid, started, seen, json.loads(told))
        for host, pid, started, seen, told in execute(db, READ)
    ]


def rows_of(bridges: Iterable[Bridge]) -> Iterator[dict[str, Any]]:
    """Give one row per part of each bridge, for people: lags in milliseconds, what it did in words."""
    for bridge in bridges:
        for part, told in bridge.figures.items():
            lags = told.get("lag_ms", {})
            rest = {name: value for name, value in told.items() if name not in ("lag_ms", "pending")}
            yield {
                "bridge": bridge.name,
                "part": part,
                "pending": told.get("pending", ""),
                "p50_ms": lags.get("p50", ""),
                "p95_ms": lags.get("p95", ""),
                "p99_ms": lags.get("p99", ""),
                "did": " ".join(f"{name}={value}" for name, value in rest.items()),
            }


def worst_lag_ms(bridges: Iterable[Bridge], part: str, quantile: str = "p95") -> float | None:
    """Return the greatest lag of a part (its name or the beginning of it); None: nothing was measured."""
    found = [
        told["lag_ms"][quantile]
        for bridge in bridges
        for name, told in bridge.figures.items()
        if name.startswith(part) and quantile in told.get("lag_ms", {})
    ]
    return max(found, default=None)
