"""Which replica a read goes to: what is known of each, and the choice. No query is made here; `pg.watch` measures."""

import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from time import monotonic

from django.conf import settings
from django.db import connections

from pg.breaker import Breaker

STALE_SECONDS = 3.0  # a server that was not measured for so long does not answer
HISTORY = 4_000  # positions of the primary: at two a second more than half an hour


@dataclass(frozen=True)
class Measured:
    """What a probe found at `at` (monotonic seconds). `lsn`: replayed up to, in bytes of WAL; `timeline` 0: unknown."""

    at: float
    lsn: int
    timeline: int
    is_standby: bool


@dataclass
class Replica:
    """One replica, as this process knows it."""

    alias: str
    weight: int = 1
    breaker: Breaker = field(default_factory=Breaker)
    measured: Measured | None = None
    lag_bytes: int = 0
    lag_seconds: float = 0.0
    error: str = "not measured yet"


@dataclass
class Replicas:
    """All replicas of the settings. Reads are shared out by weight among those that are fit; none is fit: the
    primary."""

    members: Sequence[Replica]
    most_lag_seconds: float
    most_lag_bytes: int
    clock: Callable[[], float] = monotonic
    timeline: int = 0  # of the primary
    history: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=HISTORY))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def choose(self, needed_lsn: int = 0) -> str | None:
        """Return the alias for a read that must see the WAL up to `needed_lsn`; None: the primary."""
        now = self.clock()
        fit = [one for one in self.members if not self.unfitness(one, now, needed_lsn)]
        if len(fit) < 2:
            return fit[0].alias if fit else None
        return random.choices(fit, [one.weight for one in fit])[0].alias  # noqa: S311  (nothing secret)

    def unfitness(self, one: Replica, now: float, needed_lsn: int = 0) -> str:
        """Return why a replica gets no reads; "" when it gets some."""
        seen = one.measured
        if one.weight <= 0:
            return "its weight is 0"
        if not one.breaker.is_closed:
            return f"circuit breaker {one.breaker.state}: {one.error}"
        if seen is None or now - seen.at > STALE_SECONDS:
            return one.error if seen is None else f"not measured for {now - seen.at:.0f} s"
        if self.timeline and 0 < seen.timeline < self.timeline:
            return f"on timeline {seen.timeline}, the primary is on {self.timeline}"
        if seen.is_standby and (
            one.lag_seconds > self.most_lag_seconds or one.lag_bytes > self.most_lag_bytes
        ):
            return f"{one.lag_bytes:,} bytes and {one.lag_seconds:.1f} s behind"
        if seen.lsn < needed_lsn:
            return "it has not replayed what the reader wrote"
        return ""

    # -- what the probes say ----------------------------------------------------------------------------------
    def saw_primary(self, lsn: int, timeline: int) -> None:
        with self.lock:
            self.timeline = max(self.timeline, timeline)
            if not self.history or lsn > self.history[-1][1]:
                self.history.append((self.clock(), lsn))

    def saw(self, alias: str, lsn: int, timeline: int, is_standby: bool) -> None:
        """A probe was answered."""
        with self.lock:
            one, now = self.find(alias), self.clock()
            one.measured, one.error = Measured(now, lsn, timeline, is_standby), ""
            one.lag_bytes, one.lag_seconds = self.lag_of(lsn, now)
            one.breaker.succeed(now)

    def lag_of(self, lsn: int, now: float) -> tuple[int, float]:
        """Return how far behind the primary a position is: in bytes, and in seconds since the primary passed it. By
        our own clock, so that no two machines' clocks are compared, and a primary that writes nothing makes no lag."""
        if not self.history or lsn >= self.history[-1][1]:
            return 0, 0.0
        passed = next((at for at, position in self.history if position > lsn), now)
        return self.history[-1][1] - lsn, now - passed

    def failed(self, alias: str, error: str) -> None:
        """A probe or a query failed."""
        with self.lock:
            one = self.find(alias)
            one.error = error.strip() or "it does not answer"
            one.breaker.fail(self.clock())

    def find(self, alias: str) -> Replica:
        return next((one for one in self.members if one.alias == alias), Replica(alias))


@cache
def replicas() -> Replicas:
    """Return those of the settings, one set per process."""
    return Replicas(
        [
            Replica(alias, int(connections.settings[alias].get("WEIGHT", 1)))
            for alias in settings.REPLICA_ALIASES
        ],
        settings.REPLICA_MOST_LAG_SECONDS,
        settings.REPLICA_MOST_LAG_MB << 20,
    )
