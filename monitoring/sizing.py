"""How large the pools should be, from what was measured: Little's law, with its inputs.

The connections in use at a time are the transactions per second times how long each holds one: L = rate x time.
PostgreSQL counts both (pg_stat_database); which pool they belong to, the snapshots of each minute say.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

FEWEST = 30  # half an hour
HEADROOM = 1.5
POOL_OF = {"web": "primary", "worker": "primary", "upkeep": "background"}
ALIASES = ("background", "analytics", "replica")


@dataclass(frozen=True)
class Load:
    """The whole database over a span: transactions per second, seconds that each held a connection, the product."""

    transactions_per_second: float
    seconds_per_transaction: float

    @property
    def busy(self) -> float:
        return self.transactions_per_second * self.seconds_per_transaction


@dataclass(frozen=True)
class Suggestion:
    """`mean` and `peak` busy connections of a pool, seen in `samples` looks; `maximum` is what they ask for."""

    pool: str
    samples: int
    mean: float
    peak: int
    configured: int
    maximum: int

    @property
    def verdict(self) -> str:
        if self.samples < FEWEST:
            return f"too few looks: {self.samples} of {FEWEST}"
        if self.maximum > self.configured:
            return "too small: requests wait at the peak"
        return "large enough" if self.maximum * 2 > self.configured else "more than was needed"


def pool_of(application: str) -> str:
    """Return the pool that sessions of an application_name belong to; "" for others' and for single sessions."""
    words = application.split()
    if not words or words[0] != "mistersmith":
        return ""
    for alias in ALIASES:
        if len(words) > 2 and words[2].startswith(alias):
            return alias
    return POOL_OF.get(words[1], "") if len(words) == 2 else ""


def measure_load(snapshots: Sequence[tuple[Any, Mapping[str, Any]]]) -> Load | None:
    """Return the load between the first and the last snapshot; None where they tell none: too few, counters reset."""
    if len(snapshots) < 2:
        return None
    (began, first), (ended, last) = snapshots[0], snapshots[-1]
    number = last["server"]["transactions"] - first["server"]["transactions"]
    busy_ms = last["server"]["busy_ms"] - first["server"]["busy_ms"]
    seconds = (ended - began).total_seconds()
    if number <= 0 or busy_ms < 0 or seconds <= 0:
        return None
    return Load(number / seconds, busy_ms / 1000 / number)


def suggest(
    snapshots: Sequence[tuple[Any, Mapping[str, Any]]], configured: Mapping[str, tuple[int, int]]
) -> list[Suggestion]:
    """Return one suggestion per pool. `configured`: maximum and number of processes, by pool.

    The peak with HEADROOM, rounded up to what the processes can share out evenly, and at least 2 for each: one for
    work, one for its heartbeat.
    """
    found = []
    for pool, (maximum, processes) in configured.items():
        seen = [
            sum(row["busy"] for row in data["pools"] if pool_of(row["pool"]) == pool) for _, data in snapshots
        ]
        peak = max(seen, default=0)
        share = max(2 if pool == "primary" else 1, ceil(peak * HEADROOM / processes))
        mean = sum(seen) / len(seen) if seen else 0.0
        found.append(Suggestion(pool, len(seen), mean, peak, maximum, share * processes))
    return found
