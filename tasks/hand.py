"""What a worker process has in its hands: a task that runs, some that wait for it, some that are done, not stored yet.

Short tasks are claimed several at once, so that they share a transaction. None must suffer from it: whatever takes
longer than expected is left alone with its process, by the heartbeat's thread: that is why all of this has a lock.
"""

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from uuid import UUID

from tasks.claim import Claimed, Ended, grace_seconds
from tasks.context import TaskContext

BATCH_SECONDS = 0.2  # what is claimed at once should be done by then
SHORT_SECONDS = 0.02  # others need not be called while one of these runs
ALONE_SECONDS = 1.0  # whoever runs for longer runs alone: what waits is given back, what is done is stored


class Running:
    """A task in the hands of this process. Times are of the monotonic clock."""

    def __init__(self, claimed: Claimed) -> None:
        self.claimed = claimed
        self.context = TaskContext(claimed)
        self.context.stopped_clocks.append(self.stand)
        self.began = time.monotonic()
        self.hard_limit = self.began + claimed.timeout_seconds + grace_seconds()
        self.is_lost = False

    @contextmanager
    def stand(self) -> Iterator[None]:
        """Let the hard limit not run inside the block. A task that is lost meanwhile has the grace, and no more."""
        began, limit, self.hard_limit = time.monotonic(), self.hard_limit, float("inf")
        try:
            yield
        finally:
            self.hard_limit = min(self.hard_limit, limit + time.monotonic() - began)

    def lose(self) -> None:
        """The task is not ours any more: tell the handler, and give it `grace_seconds()` to stop."""
        if not self.is_lost:
            self.is_lost = True
            self.context.lose()
            self.hard_limit = min(self.hard_limit, time.monotonic() + grace_seconds())


class Hand:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting: deque[Claimed] = deque()
        self.running: Running | None = None
        self.done: list[Ended] = []

    def take(self, claimed: Iterable[Claimed]) -> None:
        with self.lock:
            self.waiting.extend(claimed)

    def begin_next(self) -> Running | None:
        """Return the next task, which runs from now on; None: nothing waits."""
        with self.lock:
            self.running = Running(self.waiting.popleft()) if self.waiting else None
            return self.running

    def begin(self, claimed: Claimed) -> Running:
        with self.lock:
            self.running = Running(claimed)
            return self.running

    def end(self, ended: Ended | None = None) -> None:
        """Nothing runs any more; `ended` waits to be stored."""
        with self.lock:
            self.running = None
            self.done += [ended] if ended else []

    def take_done(self) -> list[Ended]:
        """Hand over what is to be stored: whoever calls this stores it, or brings it back."""
        with self.lock:
            done, self.done = self.done, []
            return done

    def bring_back(self, done: list[Ended]) -> None:
        with self.lock:
            self.done = done + self.done

    def take_waiting(self) -> list[Claimed]:
        """Hand over what has not begun: nobody runs it any more."""
        with self.lock:
            waiting, self.waiting = list(self.waiting), deque()
            return waiting

    def held(self) -> list[Claimed]:
        """Return everything whose lease is to be renewed."""
        with self.lock:
            running = [self.running.claimed] if self.running else []
            return [*running, *self.waiting, *(item.claimed for item in self.done)]

    def lose(self, task_ids: set[UUID]) -> None:
        """Drop what waits and is not ours any more; tell what runs."""
        with self.lock:
            self.waiting = deque(item for item in self.waiting if item.task_id not in task_ids)
            if self.running and self.running.claimed.task_id in task_ids:
                self.running.lose()

    def is_held_up(self) -> bool:
        """Tell whether others suffer from what runs: it takes long, and it is not alone."""
        with self.lock:
            has_others = bool(self.waiting or self.done)
            return bool(has_others and self.running and time.monotonic() > self.running.began + ALONE_SECONDS)


class Pace:
    """How many tasks of a type to claim at once, by how long they took: one at first, never more than twice as many as
    before. `is_careful`: one, whatever they take."""

    def __init__(self, most: int) -> None:
        self.most, self.size, self.mean_seconds = most, 1, 0.0
        self.is_careful = False

    @property
    def is_short(self) -> bool:
        """Tell whether the type's tasks are known to be over as soon as somebody else could begin one."""
        return 0 < self.mean_seconds < SHORT_SECONDS

    def note(self, number: int, seconds: float) -> None:
        """Learn from `number` tasks that took `seconds` together, storing them included."""
        mean = seconds / number
        self.mean_seconds = max(
            mean, (self.mean_seconds + mean) / 2
        )  # slower counts at once, faster by and by
        wanted = int(BATCH_SECONDS / max(self.mean_seconds, 1e-6))
        self.size = 1 if self.is_careful else max(1, min(wanted, self.size * 2, self.most))
