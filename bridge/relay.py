"""The relay's unit of work: one batch of committed outbox rows to JetStream, each exactly once in effect.

A row is deleted only when JetStream has it or a newer one of its key; a crash between publish and delete is seen by the
Sync-Id header that each message carries. Every publish is a compare-and-set, so neither a slow twin nor the fast path
can put an old value over a newer one. After any doubt the row is left alone and its slot forgotten: the next batch
reads both again.
"""

import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from django.db.backends.base.base import BaseDatabaseWrapper

from bridge import conflicts, connection
from bridge.delivery import (
    ABSENT,
    find_refusal,
    is_conflict,
    is_final,
    is_superseded,
    publish_rows,
    read_limits,
    read_slots,
    read_stored_ids,
)
from bridge.fence import shared_fence
from bridge.newest import Last
from bridge.outbox import Part, Row, Slot, delete_rows, quarantine_row, read_rows
from bridge.publisher import COLLIDED, NO_RESPONDERS, Outcome

BATCH_ROWS = 1_000
ANSWER_SECONDS = 2
CALL_SECONDS = 10
FINAL_TRIES = 5
MEMORY_SLOTS = 100_000


@dataclass
class Memory:
    """What a relay remembers between batches; losing it costs reads, never correctness."""

    lasts: dict[Slot, Last] = field(default_factory=dict)
    unsure: set[Slot] = field(default_factory=set)
    tries: Counter[Part] = field(default_factory=Counter)  # final refusals

    def doubt(self, slot: Slot) -> None:
        """Read the slot again before anything is published to it."""
        self.lasts.pop(slot, None)
        self.unsure.add(slot)

    def forget(self) -> None:
        self.lasts.clear()
        self.unsure.clear()

    def trim(self) -> None:
        if len(self.lasts) > MEMORY_SLOTS:
            self.forget()


@dataclass
class Batch:
    """What one batch did. `replaced`: by a newer row of their key; `known`: JetStream had them already; `doubtful`:
    left for the next batch. `trouble` is the first unexpected answer of NATS; empty: there was none."""

    read: int = 0
    published: int = 0
    known: int = 0
    replaced: int = 0
    conflicts: int = 0
    quarantined: int = 0
    doubtful: int = 0
    is_fenced: bool = False
    is_stream_missing: bool = False
    trouble: str = ""
    done: set[Part] = field(default_factory=set)
    done_ids: list[int] = field(default_factory=list)  # of rows of which nothing is left to do
    waited_seconds: list[float] = field(
        default_factory=list
    )  # of the rows that are done, since they were written

    @property
    def is_stuck(self) -> bool:
        """Whether there were rows and none of them moved."""
        return self.read > 0 and not self.done_ids and not self.quarantined


def relay_batch(db: BaseDatabaseWrapper, memory: Memory, limit: int = BATCH_ROWS) -> Batch:
    """Read the oldest rows, publish them, delete those that JetStream has.

    Running it twice, or killing it anywhere, is safe: see the module. Raises Unreachable when NATS does not answer (the
    caller then forgets the memory), and the database's errors.
    """
    rows = read_rows(db, limit)
    if not rows:
        return Batch()
    with shared_fence(db) as held:
        if not held:
            return Batch(read=len(rows), is_fenced=True)
        return deliver(db, memory, rows)


def deliver(db: BaseDatabaseWrapper, memory: Memory, rows: Sequence[Row]) -> Batch:
    """Publish in rounds, one row per slot in each. A bucket's key has one row to publish, an event's subject may have
    more; a slot whose row was not settled waits for the next batch."""
    batch, started = Batch(read=len(rows)), time.monotonic()
    lanes = make_lanes(rows, batch)
    while lanes:
        settled = deliver_round(db, memory, [lane.popleft() for lane in lanes.values()], batch)
        lanes = {slot: lane for slot, lane in lanes.items() if lane and slot in settled}
    took = time.monotonic() - started
    ages = {row.outbox_id: row.age_seconds for row in rows}
    for row in rows:
        if row.part not in batch.done:
            ages.pop(row.outbox_id, None)
    batch.done_ids = list(ages)
    batch.waited_seconds = [age + took for age in ages.values()]
    delete_rows(db, batch.done_ids)
    memory.trim()
    return batch


def make_lanes(rows: Iterable[Row], batch: Batch) -> dict[Slot, deque[Row]]:
    """Return the rows to publish by slot, oldest first; of a bucket's key only the newest, the older are done."""
    lanes: dict[Slot, deque[Row]] = {}
    for row in rows:
        lane = lanes.setdefault(row.slot, deque())
        if lane and not row.is_event:
            batch.done.add(lane.pop().part)
            batch.replaced += 1
        lane.append(row)
    return lanes


def deliver_round(db: BaseDatabaseWrapper, memory: Memory, heads: Sequence[Row], batch: Batch) -> set[Slot]:
    """Publish one row per slot; return the slots whose row is settled: JetStream has it, or an agent's write stays."""
    limits = read_limits()
    refusals = {row.part: refusal for row in heads if (refusal := find_refusal(row, limits))}
    possible = [row for row in heads if row.part not in refusals]
    known = find_known(memory, possible, learn(memory, possible))
    known |= settle_conflicts(db, memory, [row for row in possible if row.part not in known], batch)
    outcomes = refusals | publish(memory, [row for row in possible if row.part not in known])
    batch.known += len(known)
    batch.done |= known
    return {row.slot for row in heads if row.part in known} | {
        row.slot
        for row in heads
        if row.part in outcomes and settle(db, memory, row, outcomes[row.part], batch)
    }


def learn(memory: Memory, rows: Sequence[Row]) -> set[Slot]:
    """Read the slots that memory lacks; return those read. An event's subject is nearly always new: it is taken as
    empty until JetStream says otherwise."""
    missing = {row.slot: row.is_event for row in rows if row.slot not in memory.lasts}
    unread = [slot for slot, is_event in missing.items() if not is_event or slot in memory.unsure]
    if unread:
        found = connection.call(lambda client: read_slots(client, unread, ANSWER_SECONDS), CALL_SECONDS)
        memory.lasts |= {slot: without_own_data(last) for slot, last in found.items()}
        memory.unsure.difference_update(unread)
    memory.lasts |= dict.fromkeys(missing.keys() - set(unread), ABSENT)
    return set(unread)


def without_own_data(last: Last) -> Last:
    """Return what to remember: only an agent's value may be needed again."""
    return last if last.is_foreign else replace(last, data=b"")


def find_known(memory: Memory, rows: Sequence[Row], fresh: set[Slot]) -> set[Part]:
    """Return the rows that JetStream has.

    Events of one subject may commit in another order than their ids, so its newest message does not speak for the
    others: where that was just read, or is of a later id, all ids there are read.
    """
    known = {row.part for row in rows if not row.is_event and is_superseded(row, memory.lasts[row.slot])}
    slots = [row.slot for row in rows if row.is_event and needs_scan(row, memory.lasts[row.slot], fresh)]
    if not slots:
        return known
    stored = connection.call(lambda client: read_stored_ids(client, slots, ANSWER_SECONDS), CALL_SECONDS)
    for slot, ids in stored.items():
        memory.lasts[slot] = replace(memory.lasts[slot], sync_id=max(ids, default=0))
    return known | {row.part for row in rows if row.outbox_id in stored.get(row.slot, ())}


def needs_scan(row: Row, last: Last, fresh: set[Slot]) -> bool:
    return is_superseded(row, last) or (row.slot in fresh and last.revision > 0)


def settle_conflicts(db: BaseDatabaseWrapper, memory: Memory, rows: Iterable[Row], batch: Batch) -> set[Part]:
    """Decide who wins where an agent wrote unseen; return the rows that must not be published."""
    found = [(row, last) for row in rows if is_conflict(row, last := memory.lasts[row.slot])]
    if not found:
        return set()
    collisions, published = conflicts.settle(db, found)
    batch.conflicts += len(collisions)
    lost = published | {c.row.outbox_id for c in collisions if c.winner == conflicts.Winner.AGENT}
    return {row.part for row, _ in found if row.outbox_id in lost}


def publish(memory: Memory, rows: Sequence[Row]) -> dict[Part, Outcome]:
    """Publish the rows; return the outcomes."""
    if not rows:
        return {}
    outcomes = connection.call(
        lambda client: publish_rows(client, rows, memory.lasts, ANSWER_SECONDS), CALL_SECONDS
    )
    return {row.part: outcome for row, outcome in zip(rows, outcomes, strict=True)}


def settle(db: BaseDatabaseWrapper, memory: Memory, row: Row, outcome: Outcome, batch: Batch) -> bool:
    """Note what became of a row; return whether JetStream has it."""
    if outcome.sequence is not None:
        newest = max(row.outbox_id, memory.lasts[row.slot].sync_id)
        memory.lasts[row.slot] = Last(outcome.sequence, newest)
        batch.published += 1
        batch.done.add(row.part)
        return True
    memory.doubt(row.slot)
    if is_final(outcome):
        refuse(db, memory, row, outcome, batch)
        return False
    batch.doubtful += 1
    batch.is_stream_missing |= outcome.code == NO_RESPONDERS
    if outcome.code not in COLLIDED and not batch.trouble:
        batch.trouble = f"{row.slot.subject}: {outcome.text}"
    return False


def refuse(db: BaseDatabaseWrapper, memory: Memory, row: Row, outcome: Outcome, batch: Batch) -> None:
    """Count a final refusal; after FINAL_TRIES of them the row goes to quarantine and holds its key back."""
    memory.tries[row.part] += 1
    if memory.tries[row.part] < FINAL_TRIES:
        batch.doubtful += 1
        return
    quarantine_row(db, row, outcome.text, memory.tries.pop(row.part))
    batch.quarantined += 1
