"""How long the newest things took, in milliseconds."""

from collections import deque
from collections.abc import Iterable

KEPT = 2_000
QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


class Lags:
    """The newest KEPT durations. One thread adds, another may look."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=KEPT)

    def add(self, seconds: Iterable[float]) -> None:
        self._seconds.extend(seconds)

    def quantiles(self) -> dict[str, float]:
        """Return p50, p95 and p99 in milliseconds; empty when nothing was measured."""
        ordered = sorted(self._seconds)
        if not ordered:
            return {}
        last = len(ordered) - 1
        return {name: round(ordered[round(share * last)] * 1000, 1) for name, share in QUANTILES.items()}
