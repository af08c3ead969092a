"""Spares callers the wait for a server that just did not answer."""

import time

BACK_OFF_SECONDS = 3


class Breaker:
    """Open for BACK_OFF_SECONDS after a trip: whoever asks meanwhile goes another way at once instead of waiting one
    after another. One per process and purpose; a race between threads costs one more wait."""

    def __init__(self) -> None:
        self._closed_from = 0.0

    def is_open(self) -> bool:
        return time.monotonic() < self._closed_from

    def trip(self) -> None:
        self._closed_from = time.monotonic() + BACK_OFF_SECONDS

    def reset(self) -> None:
        self._closed_from = 0.0
