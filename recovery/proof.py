"""What a restore reached, and what is wrong with it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass
class Proof:
    """What a restore reached, and what is wrong with it (no problems: nothing); `notes` say what was not looked at.
    `why` is PostgreSQL's own reason for stopping. `last_commit_at` None: nothing was replayed after the backup's end.
    """

    timeline: int = 0
    reached_lsn: int = 0
    why: str = ""
    last_commit_at: datetime | None = None
    row_counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def rto_seconds(self) -> float:
        """From the decision to a server that takes work: everything but the checks."""
        return round(sum(self.seconds.get(step, 0) for step in ("files", "copy", "replay", "jetstream")), 3)

    def time(self, step: str, work: Callable[[], Any]) -> Any:
        began = time.monotonic()
        try:
            return work()
        finally:
            self.seconds[step] = round(time.monotonic() - began, 3)
