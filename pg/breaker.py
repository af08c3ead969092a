"""A circuit breaker: a server that failed is left alone for a while, then probed before anybody relies on it again."""

from dataclasses import dataclass

FIRST_SECONDS, LONGEST_SECONDS = 2.0, 60.0
GOOD_PROBES = 2


@dataclass
class Breaker:
    """Times are of the monotonic clock, in seconds; the caller gives `now`. Open, `is_closed` is False: no user's
    query is the guinea pig, the probes are. After a pause a good probe makes it half-open, and GOOD_PROBES in a row
    close it; a bad one opens it again, for twice as long."""

    pause_seconds: float = FIRST_SECONDS
    open_until: float | None = None
    good_probes: int = 0

    @property
    def is_closed(self) -> bool:
        return self.open_until is None

    @property
    def state(self) -> str:
        if self.open_until is None:
            return "closed"
        return "half-open" if self.good_probes else "open"

    def fail(self, now: float) -> None:
        """A query or a probe failed."""
        if self.open_until is not None:
            if self.good_probes or now >= self.open_until:
                self.pause_seconds = min(2 * self.pause_seconds, LONGEST_SECONDS)
                self.open_until = now + self.pause_seconds
        else:
            self.pause_seconds = FIRST_SECONDS
            self.open_until = now + self.pause_seconds
        self.good_probes = 0

    def succeed(self, now: float) -> None:
        """A probe was answered."""
        if self.open_until is None or now < self.open_until:
            return
        self.good_probes += 1
        if self.good_probes >= GOOD_PROBES:
            self.open_until, self.good_probes = None, 0
