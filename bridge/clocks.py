"""How far PostgreSQL's clock and nats-server's are apart.

Three things cross from one to the other: a time to live that an agent gives becomes `expires_at`, counted from the
moment at which nats-server stored the value; the strategy `timestamp` compares a commit with such a moment; and lags
are told from it. Each is wrong by what the clocks differ.
"""

import json
from dataclasses import dataclass
from datetime import datetime

from django.db.backends.base.base import BaseDatabaseWrapper

from bridge import connection
from bridge.connection import Client
from bridge.session import execute

STREAM = "KV_AGENT_STATE"  # in a cluster its leader answers: whose clock counts for what it stores
LOOK_SECONDS = 5


@dataclass(frozen=True)
class Skew:
    """`seconds`: how far nats-server's clock is ahead (negative: behind), give or take `error_seconds`, half of what it
    took to ask."""

    seconds: float
    error_seconds: float

    @property
    def certain_seconds(self) -> float:
        """How far they are apart at least, whichever is ahead."""
        return max(0.0, abs(self.seconds) - self.error_seconds)


def read_skew(db: BaseDatabaseWrapper, timeout_seconds: float = LOOK_SECONDS) -> Skew | None:
    """Ask nats-server for its time, and PostgreSQL before and after: two queries, one request, nothing stored. None
    while there is no bucket to ask for. Raises Unreachable."""
    before = read_postgres(db)
    theirs = connection.call(lambda client: read_nats(client, timeout_seconds), timeout_seconds)
    after = read_postgres(db)
    return None if theirs is None else Skew(theirs - (before + after) / 2, (after - before) / 2)


def read_postgres(db: BaseDatabaseWrapper) -> float:
    """Return its time in seconds since 1970."""
    return float(execute(db, "SELECT extract(epoch FROM clock_timestamp())::float8")[0][0])


async def read_nats(client: Client, timeout_seconds: float) -> float | None:
    """Return its time in seconds since 1970: it comes with what it says of a stream, which nats-py leaves out."""
    answer = await client.nc.request(f"$JS.API.STREAM.INFO.{STREAM}", timeout=timeout_seconds)
    told = json.loads(answer.data).get("ts")
    return datetime.fromisoformat(told).timestamp() if told else None
