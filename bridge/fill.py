"""Fill a bucket from PostgreSQL: a whole one (rebuild), or one agent's keys (hydrate).

Every message is a create: it is stored only where KV has nothing at all. So a newer value, a deletion and a slow twin
of this are all safe. A key whose write waits in the outbox is left to the relay. Running it twice, late or beside
itself fills what is still missing.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db.backends.base.base import BaseDatabaseWrapper

from bridge import topology
from bridge.connection import Client, call
from bridge.fence import FENCED, shared_fence
from bridge.kv import EXPECTED, value_headers
from bridge.mirrors import Mirror
from bridge.publisher import WRONG_LAST_SEQUENCE, Message, Outcome
from pg.errors import Refused, Unreachable

PAGE_ROWS = 1_000
ANSWER_SECONDS = 5
CALL_SECONDS = 30
CREATE = {"Sync-Origin": "hydrate", EXPECTED: "0"}


@dataclass
class Filled:
    """What became of the rows. `kept`: KV had something of the key; `pending`: the relay is about to bring it."""

    rows: int = 0
    stored: int = 0
    kept: int = 0
    pending: int = 0


@dataclass(frozen=True)
class Source:
    """One row as it goes to KV; `seconds_left` None: it does not expire."""

    identity: tuple[Any, ...]
    key: str
    payload: str
    is_pending: bool
    seconds_left: float | None


def fill_bucket(db: BaseDatabaseWrapper, mirror: Mirror, agent_ids: Sequence[UUID] | None = None) -> Filled:
    """Create the keys of the rows that are live, of these agents or of all. Raises Refused when a backup holds the
    fence, Unreachable; what was stored until then stays."""
    filled = Filled()
    for page in read_pages(db, mirror, agent_ids):
        wanted = [row for row in page if not row.is_pending]
        outcomes = publish(db, mirror, wanted)
        filled.rows += len(page)
        filled.pending += len(page) - len(wanted)
        filled.stored += sum(outcome.is_stored for outcome in outcomes)
        filled.kept += sum(not outcome.is_stored for outcome in outcomes)
    return filled


def count_rows(db: BaseDatabaseWrapper, mirror: Mirror, agent_ids: Sequence[UUID] | None = None) -> int:
    """Return how many rows `fill_bucket` would look at."""
    where, params = live_rows(mirror, agent_ids)
    with db.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {mirror.table} WHERE {where}", params)
        return int(cursor.fetchone()[0])


def read_pages(
    db: BaseDatabaseWrapper, mirror: Mirror, agent_ids: Sequence[UUID] | None
) -> Iterator[list[Source]]:
    """Give the live rows in key order, PAGE_ROWS at a time, each page as of one moment."""
    columns = ", ".join(name for name, _ in mirror.identity)
    where, params = live_rows(mirror, agent_ids)
    after: tuple[Any, ...] = ()
    while True:
        bound = f"AND ({columns}) > ({', '.join('%s' for _ in after)})" if after else ""
        with db.cursor() as cursor:
            cursor.execute(
                f"SELECT {columns}, key, payload, EXISTS ("
                "   SELECT FROM bridge.outbox o WHERE o.target = %s AND o.key = w.key), seconds_left"
                f" FROM (SELECT {columns}, {mirror.key} AS key, ({mirror.payload})::text AS payload,"
                f"   CASE WHEN isfinite({mirror.expires_at})"
                f"        THEN extract(epoch FROM {mirror.expires_at} - now())::float8 END AS seconds_left"
                f"   FROM {mirror.table} WHERE {where} {bound} ORDER BY {columns} LIMIT %s) w ORDER BY {columns}",
                [mirror.bucket, *params, *after, PAGE_ROWS],
            )
            found = cursor.fetchall()
        if not found:
            return
        width = len(mirror.identity)
        yield [Source(row[:width], *row[width:]) for row in found]
        after = found[-1][:width]


def live_rows(mirror: Mirror, agent_ids: Sequence[UUID] | None) -> tuple[str, list[Any]]:
    live = f"({mirror.expires_at} > now()) IS NOT FALSE"
    return (live, []) if agent_ids is None else (f"{live} AND agent_id = ANY(%s)", [list(agent_ids)])


def publish(db: BaseDatabaseWrapper, mirror: Mirror, rows: Sequence[Source]) -> list[Outcome]:
    """Create the keys; return the outcomes: stored, or kept because KV has something. Raises Unreachable."""
    if not rows:
        return []
    bucket = topology.buckets()[mirror.bucket]
    messages = [
        Message(bucket.subject(row.key), row.payload.encode(), headers_of(row), bucket.stream) for row in rows
    ]

    async def send(client: Client) -> list[Outcome]:
        return await client.publisher.publish(messages, ANSWER_SECONDS)

    with shared_fence(db) as held:
        if not held:
            raise Refused(FENCED, "run it again when it is over; doctor: bridge.hold")
        outcomes = call(send, CALL_SECONDS)
    for outcome in outcomes:
        if not outcome.is_stored and outcome.code != WRONG_LAST_SEQUENCE:
            raise Unreachable(
                f"bucket {mirror.bucket}: {outcome.text}", "run manage.py bridge setup, then this again"
            )
    return outcomes


def headers_of(row: Source) -> dict[str, str]:
    if row.seconds_left is None:
        return CREATE
    return CREATE | value_headers(max(1, math.ceil(row.seconds_left)))
