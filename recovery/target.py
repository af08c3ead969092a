"""A moment to restore the server to."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from recovery.errors import NotReachable


@dataclass(frozen=True)
class Target:
    """Where to stop: `end` is the backup's own. `value`: "" for latest and end; a position, name or transaction id;
    ISO time with zone. `timeline` None: the newest one that goes on from the backup."""

    kind: Literal["latest", "end", "time", "lsn", "name", "xid"] = "latest"
    value: str = ""
    timeline: int | None = None

    @property
    def moment(self) -> datetime:
        """The time of a time target. Raises NotReachable for what is none."""
        try:
            moment = datetime.fromisoformat(self.value)
        except ValueError as error:
            raise NotReachable(f"{self.value}: not a time", "write 2026-11-23T10:30:00+00:00") from error
        if moment.tzinfo is None:
            raise NotReachable(f"{self.value}: which time zone?", f"write {self.value}+00:00 for UTC")
        return moment

    def __str__(self) -> str:
        return f"{self.kind} {self.value}".strip()
