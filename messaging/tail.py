"""The newest messages, and those that come."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.utils import timezone

from pg.queries import Queries
from pg.uuid7 import uuid7_floor

QUERIES = Queries("messaging")
OVERLAP = timedelta(
    seconds=30
)  # a transaction may commit that much later than it took its id, and is still seen
MOST_AT_ONCE = 1000


@dataclass(frozen=True)
class Filters:
    """Which messages; None: all. `agent_id` is the sender or the one it was sent to."""

    agent_id: UUID | None = None
    channel_id: UUID | None = None
    message_type: str | None = None


def read_newest(filters: Filters, since: datetime, limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` messages since that moment, newest first. Partitions before it are not read."""
    bounds = {"since": uuid7_floor(since), "until": uuid7_floor(timezone.now() + timedelta(days=1))}
    return QUERIES.run("tail", {**vars(filters), **bounds}, limit=int(limit))


class Tail:
    """Each message once, as it becomes visible. Ids are not in commit order: the last seconds are read again."""

    def __init__(self, filters: Filters) -> None:
        self.filters = filters
        self.seen: dict[UUID, datetime] = {}

    def note(self, rows: list[dict[str, Any]]) -> None:
        """Take these as shown."""
        self.seen |= {row["message_id"]: row["sent_at"] for row in rows}

    def read_new(self) -> Iterator[dict[str, Any]]:
        """Yield what was not seen before, oldest first. One query."""
        since = timezone.now() - OVERLAP
        rows = [
            row
            for row in reversed(read_newest(self.filters, since, MOST_AT_ONCE))
            if row["message_id"] not in self.seen
        ]
        self.note(rows)
        self.seen = {key: sent_at for key, sent_at in self.seen.items() if sent_at > since - OVERLAP}
        yield from rows
