"""Two writes of a key that had not seen each other: PostgreSQL's, still in the outbox, and an agent's, in KV.

Who wins is the row's own strategy, else the rule with the longest prefix, else the last write. The relay decides before
it publishes; the loser is kept. Where PostgreSQL wins, the agent's revision counts as settled from then on, so that the
flusher never applies it; where the agent wins, the row is dropped and the flusher, who has waited for that, applies it.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.backends.base.base import BaseDatabaseWrapper

from bridge.connection import Client, call
from bridge.models import Conflict, Strategy
from bridge.newest import Last, read_sync_ids
from bridge.outbox import Row, shown
from bridge.session import execute, transaction
from bridge.targets import TARGETS

CLOCKS_APART = timedelta(minutes=5)  # between PostgreSQL and nats-server, at most
ANSWER_SECONDS = 2
CALL_SECONDS = 10
Winner = Conflict.Winner


@dataclass(frozen=True)
class Rule:
    bucket: str
    key_prefix: str
    strategy: str

    def fits(self, key: str) -> bool:
        """Tell whether the key, or in AGENT_STATE the state key in it, begins with the prefix."""
        return key.startswith(self.key_prefix) or key.partition(".")[2].startswith(self.key_prefix)


@dataclass(frozen=True)
class Collision:
    """A row that has to be published over `last`, an agent's write that its writer had not seen."""

    row: Row
    last: Last
    strategy: str
    winner: str


def settle(db: BaseDatabaseWrapper, found: Sequence[tuple[Row, Last]]) -> tuple[list[Collision], set[int]]:
    """Decide and record collisions; return them, and the ids of rows that were published long ago: an agent wrote over
    them since, and had seen them. Safe to repeat. Raises Unreachable."""
    written = read_times(db, [row.outbox_id for row, _ in found])
    published = find_published([row for row, _ in found], written)
    rules = read_rules(db)
    collisions = [
        decide(row, last, rules, written[row.outbox_id])
        for row, last in found
        if row.outbox_id not in published and row.outbox_id in written
    ]
    gone = {row.outbox_id for row, _ in found if row.outbox_id not in written}
    if collisions:
        record(db, collisions)
    return collisions, published | gone


def decide(row: Row, last: Last, rules: Iterable[Rule], written_at: datetime) -> Collision:
    """Name the winner. Times are PostgreSQL's and nats-server's: a near tie is decided by their clocks."""
    strategy = row.strategy or choose(rules, row.target, row.key)
    agent_wins = strategy == Strategy.REJECT or (
        strategy == Strategy.TIMESTAMP and last.stored_at is not None and last.stored_at > written_at
    )
    return Collision(row, last, strategy, Winner.AGENT if agent_wins else Winner.POSTGRESQL)


def choose(rules: Iterable[Rule], bucket: str, key: str) -> str:
    """Return the strategy of the longest prefix that fits."""
    fitting = [rule for rule in rules if rule.bucket == bucket and rule.fits(key)]
    longest = max(fitting, key=lambda rule: len(rule.key_prefix), default=None)
    return longest.strategy if longest else Strategy.LAST_WRITE_WINS


def read_rules(db: BaseDatabaseWrapper) -> list[Rule]:
    return [
        Rule(*row) for row in execute(db, "SELECT bucket, key_prefix, strategy FROM bridge.conflict_rules")
    ]


def read_times(db: BaseDatabaseWrapper, ids: Sequence[int]) -> dict[int, datetime]:
    """Return when rows were written; those that are gone are left out."""
    found = execute(
        db, "SELECT outbox_id, created_at FROM bridge.outbox WHERE outbox_id = ANY(%s)", [list(ids)]
    )
    return dict(found)


def find_published(rows: Sequence[Row], written: dict[int, datetime]) -> set[int]:
    """Return the rows that JetStream has had: by the fast path, or by a relay that died before it deleted them. Looks
    into the bucket's history and, for what that forgot, into the FLUSH stream."""
    ids = call(lambda client: read_published(client, rows, written), CALL_SECONDS)
    return {row.outbox_id for row in rows if any(known >= row.outbox_id for known in ids[row.outbox_id])}


async def read_published(
    client: Client, rows: Sequence[Row], written: dict[int, datetime]
) -> dict[int, set[int]]:
    found: defaultdict[int, set[int]] = defaultdict(set)
    for row in rows:
        stream, subject = row.slot
        found[row.outbox_id] |= await read_sync_ids(client.nc, stream, subject, ANSWER_SECONDS)
        if row.outbox_id in written:
            since = written[row.outbox_id] - CLOCKS_APART
            found[row.outbox_id] |= await read_sync_ids(
                client.nc, f"FLUSH_{row.target}", subject, ANSWER_SECONDS, since
            )
    return found


# What settles locks rows: it must not prune partitions while it runs (docs/decisions/0024).
BEGUN = "SET LOCAL sync.origin = 'kv'; SET LOCAL enable_partition_pruning = off"


def record(db: BaseDatabaseWrapper, collisions: Sequence[Collision]) -> None:
    """Keep both values, and settle the revisions that lost. Recording one twice keeps the first."""
    with transaction(db):
        execute(db, BEGUN)
        for bucket, target in TARGETS.items():
            lost = [c for c in collisions if c.row.target == bucket and c.winner == Winner.POSTGRESQL]
            parsed = [(c, identity) for c in lost if (identity := target.parse(c.row.key))]
            if parsed:
                values = {
                    **target.identities([identity for _, identity in parsed]),
                    "keys": [c.row.key for c, _ in parsed],
                    "revisions": [c.last.revision for c, _ in parsed],
                }
                execute(db, target.query("settle"), values)
        for collision in collisions:
            execute(db, INSERT, values_of(collision))


INSERT = """
INSERT INTO bridge.conflict (
  outbox_id, target, key, strategy, winner, base_revision, kv_revision, kv_value, pg_value)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s::jsonb) ON CONFLICT DO NOTHING
"""


def values_of(collision: Collision) -> list[object]:
    row, last = collision.row, collision.last
    return [
        row.outbox_id or None,
        row.target,
        row.key,
        str(collision.strategy),
        str(collision.winner),
        row.base_revision,
        last.revision,
        shown(last),
        row.payload,
    ]
