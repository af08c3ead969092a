"""The log of an attempt: the last lines that its handler logged, kept with its execution.

Whatever goes through `logging` while the handler runs is kept, `context.logger` and libraries alike, and in Celery's
workers what is printed too (they turn it into log lines). Lines of threads that the handler starts are not.
"""

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from pg.json import without_nul
from tasks.redact import redact

MAX_LINES = 200
MAX_LINE_LENGTH = 1_000
_lines: ContextVar["AttemptLog | None"] = ContextVar("attempt_log", default=None)


class AttemptLog:
    """The newest MAX_LINES lines, each cut to MAX_LINE_LENGTH; `dropped` counts those before them."""

    def __init__(self) -> None:
        self.kept: deque[str] = deque(maxlen=MAX_LINES)
        self.dropped = 0

    def add(self, text: str) -> None:
        for line in text[: MAX_LINES * MAX_LINE_LENGTH].splitlines() or [""]:
            self.dropped += len(self.kept) == MAX_LINES
            self.kept.append(line[:MAX_LINE_LENGTH])

    def text(self) -> str | None:
        """Return the lines, secrets taken out; None where nothing was logged."""
        if not self.kept:
            return None
        before = [f"... {self.dropped} earlier lines are not kept"] if self.dropped else []
        return without_nul(redact("\n".join([*before, *self.kept])))


class Keeper(logging.Handler):
    """Hands each record to the attempt that runs in this context, if any."""

    def emit(self, record: logging.LogRecord) -> None:
        log = _lines.get()
        if log is None:
            return
        try:
            log.add(self.format(record))
        except Exception:  # a record whose arguments do not fit its text
            self.handleError(record)


_keeper = Keeper()
_keeper.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))


@contextmanager
def keep_log() -> Iterator[AttemptLog]:
    """Keep what is logged inside the block."""
    root = logging.getLogger()
    if _keeper not in root.handlers:
        root.addHandler(_keeper)
    log = AttemptLog()
    token = _lines.set(log)
    try:
        yield log
    finally:
        _lines.reset(token)
