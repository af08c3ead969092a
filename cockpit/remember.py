"""One answer for many who ask."""

from collections.abc import Callable
from threading import Lock
from time import monotonic
from typing import Generic, TypeVar

T = TypeVar("T")


class Remembered(Generic[T]):
    """Calls `ask` at most every `seconds` in this process; others wait for that one answer. Errors are not kept."""

    def __init__(self, ask: Callable[[], T], seconds: float) -> None:
        self.ask, self.seconds = ask, seconds
        self._lock, self._answers = Lock(), list[tuple[float, T]]()

    def __call__(self) -> T:
        with self._lock:
            if not self._answers or monotonic() - self._answers[0][0] > self.seconds:
                self._answers = [(monotonic(), self.ask())]
            return self._answers[0][1]

    def forget(self) -> None:
        with self._lock:
            self._answers = []
