"""What agents wrote and PostgreSQL had not flushed yet at the moment: out of a FLUSH stream, into the restored rows.

The flusher's own unit of work applies it, so the same positions decide: what the rows have already changes nothing, and
it may be done twice.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from bridge import connection, topology
from bridge.changes import Letter, Unreadable, read_revision
from bridge.connection import Client
from bridge.flusher import flush_batch
from bridge.headers import AGENT_EPOCH, EXPECTED, OPERATION, TTL
from bridge.newest import direct_get
from bridge.publisher import Message
from bridge.session import execute
from bridge.targets import TARGETS

log = logging.getLogger(__name__)
BATCH = {"batch": 500, "max_bytes": 16 << 20}
ANSWER_SECONDS = 30
KEPT_HEADERS = (AGENT_EPOCH, OPERATION, TTL)
ID_GAP = 10_000_000  # more outbox rows than a lost future can have had


@dataclass
class Replayed:
    """What became of a bucket's messages. `waiting`: a write of PostgreSQL to the same key was on its way; the relay
    decides between the two."""

    bucket: str
    read: int = 0
    applied: int = 0
    stale: int = 0
    dead: int = 0
    waiting: list[Letter] = field(default_factory=list)


def replay(db: BaseDatabaseWrapper, bucket: str, epoch: int, is_wanted: Callable[[Letter], bool]) -> Replayed:
    """Apply the wanted messages of the FLUSH stream that the linked server has, from behind what is flushed on.

    `epoch` is that of the bucket which the stream took from. Raises Unreachable.
    """
    done = Replayed(bucket)
    for letters in read_letters(f"FLUSH_{bucket}", epoch, flushed_sequence(db, bucket, epoch) + 1):
        wanted = [letter for letter in letters if is_wanted(letter)]
        if wanted:
            flushed = flush_batch(db, TARGETS[bucket], wanted)
            done.read += flushed.read
            done.applied += flushed.applied
            done.stale += flushed.stale + flushed.replaced + flushed.own + flushed.fenced
            done.dead += flushed.dead
            done.waiting += flushed.waiting
    return done


def flushed_sequence(db: BaseDatabaseWrapper, bucket: str, epoch: int) -> int:
    """Return up to where PostgreSQL has all of the bucket's FLUSH stream; 0 of another making of it."""
    found = execute(
        db, "SELECT flushed_sequence FROM bridge.sources WHERE bucket = %s AND kv_epoch = %s", [bucket, epoch]
    )
    return int(found[0][0]) if found else 0


def read_letters(stream: str, epoch: int, start: int) -> Iterator[Sequence[Letter]]:
    """Give the messages of a stream from sequence `start` on, in pages."""
    while True:
        page = connection.call(lambda client, at=start: read_page(client, stream, at), ANSWER_SECONDS)  # type: ignore[misc]
        if not page:
            return
        yield [to_letter(message, epoch) for message in page]
        start = int(page[-1].headers["Nats-Sequence"]) + 1


async def read_page(client: Client, stream: str, start: int) -> list[Any]:
    request = {"seq": start, "next_by_subj": ">", **BATCH}
    messages, _ = await direct_get(client.nc, stream, request, ANSWER_SECONDS)
    return messages


def to_letter(message: Any, epoch: int) -> Letter:
    headers = message.headers
    stored_at = datetime.fromisoformat(headers["Nats-Time-Stamp"])
    return Letter(
        headers["Nats-Subject"], message.data, headers, int(headers["Nats-Sequence"]), epoch, stored_at
    )


def up_to_revision(last: int) -> Callable[[Letter], bool]:
    """Take what the bucket had stored by a revision; what names none is for the dead letters."""

    def is_wanted(letter: Letter) -> bool:
        try:
            return read_revision(letter.headers) <= last
        except Unreadable:
            return True

    return is_wanted


def up_to_time(moment: datetime) -> Callable[[Letter], bool]:
    return lambda letter: letter.stored_at <= moment


# -- where PostgreSQL wrote too -----------------------------------------------------------------------------
def hand_to_relay(db: BaseDatabaseWrapper, done: Replayed) -> None:
    """Put the writes that wait into the new bucket as the agents' own, unless it has something of the key: the relay
    then finds both and decides by the rules. Rows in the outbox have seen nothing of the new bucket."""
    execute(
        db,
        "UPDATE bridge.outbox SET base_revision = 0 WHERE target = %s AND base_revision IS NOT NULL",
        [done.bucket],
    )
    newest = {letter.subject: letter for letter in done.waiting}
    messages = [Message(letter.subject, letter.data, headers_of(letter)) for letter in newest.values()]
    if messages:
        connection.call(lambda client: client.publisher.publish(messages, ANSWER_SECONDS), ANSWER_SECONDS)


def headers_of(letter: Letter) -> dict[str, str]:
    kept = {name: value for name, value in letter.headers.items() if name in KEPT_HEADERS}
    return {**kept, EXPECTED: "0"}


def skip_lost_ids(db: BaseDatabaseWrapper) -> None:
    """Give no outbox id again that a row of the lost future may have had. Twice skips twice, which costs nothing."""
    execute(
        db,
        "SELECT setval(pg_get_serial_sequence('bridge.outbox', 'outbox_id'), last_value + %s)"
        " FROM bridge.outbox_outbox_id_seq",
        [ID_GAP],
    )


def renumber(db: BaseDatabaseWrapper) -> None:
    """Give what waits for KV new ids, in the same order: KV may have later ones of the same keys, of a future that is
    lost, and these would count as past. Events keep theirs: by them the relay sees which ones were sent."""
    columns = "target, key, op, base_revision, payload, created_at, strategy, expires_at"
    execute(
        db,
        "WITH old AS (DELETE FROM bridge.outbox WHERE op <> 'E' RETURNING *)"
        f" INSERT INTO bridge.outbox ({columns}) SELECT {columns} FROM old ORDER BY outbox_id",
    )


def shared_buckets() -> list[str]:
    return [name for name in topology.buckets() if name in TARGETS]
