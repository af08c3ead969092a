"""Spares callers the wait for a server that just did not answer."""

import time

BACK_OFF_SECONDS = 3


class Breaker:
    """Open for BACK_OFF_SECONDS after a trip: whoever asks meanwhile goes another way at once instead of waiting one
    after another. One per process and purpose; a race between threads costs one more wait."""

    def __init__(self, misses: int = 1) -> None:
        """`misses`: how many in a row open it."""
        self._most, self._misses = misses, 0
        self._closed_from = 0.0

    def is_open(self) -> bool:
        return time.monotonic() < self._closed_from

    def trip(self) -> None:
        self._misses = 0
        self._closed_from = time.monotonic() + BACK_OFF_SECONDS

    def miss(self) -> None:
        """Note an answer that did not come in time: a server may be busy for a moment."""
        self._misses += 1
        if self._misses >= self._most:
            self.trip()

    def reset(self) -> None:
        """Note that the server answered."""
        self._misses = 0
        self._closed_from = 0.0
