"""Take messages, and say what became of them.

A delivery that is taken is leased: unless it is acknowledged or rejected by `lease_until`, it can be taken again, of a
queue by any subscriber. So a message may be delivered more than once. Whoever comes late, the delivery being somebody
else's by then, changes nothing and is told so: `agent` and `attempt` fence.

    pending ──take──▶ delivered ──acknowledge──▶ processed
       ▲                  │
       └──────────────────┼─ rejected, or the lease ran out, attempts left (after a delay that doubles)
                          └─ attempts spent, or not to be tried again ──▶ failed: dead, until redriven
    pending, not taken by expires_at ──▶ expired
"""

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.utils import timezone

from pg.errors import Refused
from pg.queries import Queries
from pg.uuid7 import uuid7_floor

QUERIES = Queries("messaging")
LEASE_SECONDS = 60.0
MAX_ATTEMPTS = 5
RETRY_DELAY_SECONDS = 2.0
MAX_RETRY_DELAY_SECONDS = 3600.0
LOOK_BACK_DAYS = 8  # older deliveries have expired: their partitions are not read
BATCH = 1000


@dataclass(frozen=True)
class Taken:
    """A message leased to `agent_id`. `attempt` counts from 1; `channel_id` None: it came without one."""

    delivery_id: UUID
    agent_id: UUID
    attempt: int
    lease_until: datetime
    message_id: UUID
    message_type: str
    from_agent_id: UUID | None
    channel_id: UUID | None
    subject: str | None
    payload: Any
    headers: dict[str, Any]
    correlation_id: UUID | None
    reply_to: str | None
    priority: int
    sent_at: datetime
    expires_at: datetime


def take(agent_id: UUID, limit: int = 1, lease_seconds: float = LEASE_SECONDS) -> list[Taken]:
    """Lease up to `limit` due messages to the agent, the highest priority first, then the oldest; [] when none is due.

    Its own, and those of the queues that it subscribed to. One statement; takers beside each other get different
    deliveries and never wait. The first recipient's time is copied to the message.
    """
    if limit < 1 or lease_seconds <= 0:
        raise Refused(f"limit={limit}, lease_seconds={lease_seconds}: must be more than 0")
    values = {"agent_id": agent_id, "lease_seconds": lease_seconds, "max_attempts": MAX_ATTEMPTS}
    leased = QUERIES.run("lease", values | open_window(), limit=int(limit))
    return collect(agent_id, leased) if leased else []


def collect(agent_id: UUID, leased: list[dict[str, Any]]) -> list[Taken]:
    """Read the messages of a lease. One that retention removed meanwhile is left out: its delivery will expire."""
    values = {f"{name}s": [row[name] for row in leased] for name in ("message_id", "attempt")}
    values["delivered_ats"] = [row.pop("delivered_at") for row in leased]
    messages = {row["message_id"]: parsed(row) for row in QUERIES.run("collect", values)}
    found = (row | messages[row["message_id"]] for row in leased if row["message_id"] in messages)
    taken = [Taken(agent_id=agent_id, **row) for row in found]
    return sorted(taken, key=lambda item: (-item.priority, item.delivery_id))


def parsed(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"payload": json.loads(row["payload"]), "headers": json.loads(row["headers"])}


def open_window() -> dict[str, UUID]:
    """Return the bounds of the ids of deliveries that may be open."""
    now = timezone.now()
    return {
        "since": uuid7_floor(now - timedelta(days=LOOK_BACK_DAYS)),
        "until": uuid7_floor(now + timedelta(days=1)),
    }


def acknowledge(*taken: Taken) -> int:
    """Say that messages were processed; return how many were still ours. One statement; twice changes nothing."""
    if not taken:
        return 0
    names = ("delivery_id", "message_id", "agent_id", "attempt")
    return len(
        QUERIES.run("acknowledge", {f"{name}s": [getattr(item, name) for item in taken] for name in names})
    )


def reject(
    taken: Taken, error: str, *, may_retry: bool = True, delay_seconds: float | None = None
) -> str | None:
    """Say that a message could not be processed; return the delivery's state, None where it was not ours any more.

    `pending`: it comes again after `delay_seconds` (None: a random time, twice as long after each attempt, at most an
    hour), of a queue to any subscriber. `failed`: its attempts are spent, or `may_retry` is False.
    """
    values = {
        "delivery_id": taken.delivery_id,
        "agent_id": taken.agent_id,
        "attempt": taken.attempt,
        "error": error.replace("\0", "\N{REPLACEMENT CHARACTER}").strip() or "rejected without a reason",
        "may_retry": may_retry,
        "max_attempts": MAX_ATTEMPTS,
        "delay_seconds": backoff_seconds(taken.attempt) if delay_seconds is None else delay_seconds,
    }
    rows = QUERIES.run("reject", values)
    return rows[0]["state"] if rows else None


def backoff_seconds(attempt: int) -> float:
    """Return a random time, so that those that failed together do not come back together."""
    longest = min(RETRY_DELAY_SECONDS * 2 ** (attempt - 1), MAX_RETRY_DELAY_SECONDS)
    return random.uniform(longest / 2, longest)  # noqa: S311


# -- upkeep -------------------------------------------------------------------------------------------------
def expire_deliveries(limit: int = BATCH) -> int:
    """Expire up to `limit` deliveries that nobody took in time; return how many. Two at once take different rows."""
    return len(QUERIES.run("expire", limit=int(limit)))


def bury_deliveries(limit: int = BATCH) -> int:
    """Fail up to `limit` deliveries whose last lease ran out; return how many. Two at once take different rows."""
    return len(QUERIES.run("bury", {"max_attempts": MAX_ATTEMPTS}, limit=int(limit)))


def list_dead(agent_id: UUID | None = None, limit: int = BATCH) -> list[UUID]:
    """Return the ids of dead deliveries, the oldest first; `agent_id` None: everybody's."""
    return [row["delivery_id"] for row in QUERIES.run("dead", {"agent_id": agent_id}, limit=int(limit))]


def redrive(delivery_ids: Iterable[UUID]) -> int:
    """Send dead deliveries again with all their attempts; return how many. Those that are not dead stay as they are.

    Each gets a new id, that of its new day; a message whose time is over gets another OPEN_DAYS. Those whose message
    retention has removed stay dead. Twice is safe: the second finds nothing under the old ids.
    """
    return len(QUERIES.run("redrive", {"delivery_ids": list(delivery_ids)}))
