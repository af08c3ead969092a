"""The flusher's unit of work: one batch of what agents wrote to a bucket, into PostgreSQL.

Every change has a position, and of two changes of a key the one with the higher position wins, whatever the order in
which they arrive: so a batch may be applied twice, late, or beside another flusher's. What cannot be applied is set
apart in the same transaction. Where a write from PostgreSQL is on its way to the same key, the change waits until the
relay has settled who wins.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from django.db import DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper

from bridge import topology
from bridge.changes import Change, Letter, Unreadable, read_change
from bridge.dead_letters import bury, is_poison
from bridge.keys import is_fence
from bridge.session import execute_bound, pruning, savepoint, transaction
from bridge.targets import QUERIES, Identity, Target, to_arrays
from pg.arrays import booleans

Wanted = tuple[Change, Identity]

# Rows are locked without pruning at run time, whoever's session it is (bridge.session.PLANS).
BEGIN = "BEGIN; SET LOCAL sync.origin = 'kv'; SET LOCAL enable_partition_pruning = off"
UNKNOWN = "no such agent: its key begins with an id that is not registered"


@dataclass
class Flushed:
    """What became of a batch. `replaced`: by a later change of their key in the same batch; `stale`: PostgreSQL had
    them or later ones; `own`: PostgreSQL's own, run out, or no state; `ended`: data of a session that is over;
    `waiting` must be delivered again."""

    read: int = 0
    applied: int = 0
    replaced: int = 0
    stale: int = 0
    own: int = 0
    fenced: int = 0
    ended: int = 0
    dead: int = 0
    waiting: list[Letter] = field(default_factory=list)


class Given(NamedTuple):
    """Changes to be applied together; `newest` has one of each key, in the order of keys, and `parameters` is what
    the queries get of those."""

    wanted: Sequence[Wanted]
    newest: Sequence[Wanted]
    parameters: dict[str, object]


class Batch(NamedTuple):
    """Messages and what they mean. `own` changes nothing; `unreadable` means nothing, with the reason."""

    letters: Sequence[Letter]
    given: Given
    unreadable: Sequence[tuple[Letter, str]]
    own: int


def flush_batch(db: BaseDatabaseWrapper, target: Target, letters: Sequence[Letter]) -> Flushed:
    """Read and write messages; see write_batch."""
    return write_batch(db, target, read_batch(target, letters))


def write_batch(db: BaseDatabaseWrapper, target: Target, batch: Batch) -> Flushed:
    """Apply what the messages say, in one transaction; when it returns, all but `waiting` may be acknowledged.

    Running it again with any of the messages changes nothing. Raises the database's errors, and has then done nothing.
    """
    done = Flushed(read=len(batch.letters), own=batch.own)
    with transaction(db, BEGIN):
        errors = [*batch.unreadable, *apply_all(db, target, batch.given, done)]
        bury(db, topology.FLUSHER, f"FLUSH_{target.bucket}", errors)
    done.dead = len(errors)
    return done


def read_batch(target: Target, letters: Sequence[Letter]) -> Batch:
    """Return what messages mean: all that can be done before PostgreSQL is asked, so while it is at work."""
    wanted: list[Wanted] = []
    unreadable: list[tuple[Letter, str]] = []
    for letter in letters:
        try:
            change = read_change(letter, target.bucket)
            if change is None or is_fence(change.key):
                continue
            identity = target.parse(change.key)
            if identity is None:
                raise Unreadable(f"{change.key!r} is no key of {target.bucket}")
            wanted.append((change, identity))
        except Unreadable as error:
            unreadable.append((letter, str(error)))
    return Batch(letters, give(target, wanted), unreadable, len(letters) - len(wanted) - len(unreadable))


def give(target: Target, wanted: Sequence[Wanted]) -> Given:
    chosen = newest(wanted)
    return Given(wanted, chosen, to_arrays(parameters(target, chosen)) if chosen else {})


def apply_all(
    db: BaseDatabaseWrapper, target: Target, given: Given, done: Flushed
) -> list[tuple[Letter, str]]:
    """Apply the changes; return those that PostgreSQL will never take, with its reason. A batch with such a change is
    halved until it is alone, so that the others, earlier ones of its own key too, go in."""
    wanted = given.wanted
    if not wanted:
        return []
    try:
        with savepoint(db):
            return apply_newest(db, target, given, done)
    except DatabaseError as error:
        if not is_poison(error):
            raise
        if len(wanted) == 1:
            return [(wanted[0][0].letter, str(error).strip())]
    half = len(wanted) // 2
    return [
        *apply_all(db, target, give(target, wanted[:half]), done),
        *apply_all(db, target, give(target, wanted[half:]), done),
    ]


def newest(wanted: Iterable[Wanted]) -> list[Wanted]:
    """Return the newest change of each key, in the order of keys: two flushers lock rows in one order."""
    found: dict[str, Wanted] = {}
    for each in wanted:
        change = each[0]
        known = found.get(change.key)
        if known is None or known[0].revision < change.revision:
            found[change.key] = each
    return [found[key] for key in sorted(found)]


def apply_newest(
    db: BaseDatabaseWrapper, target: Target, given: Given, done: Flushed
) -> list[tuple[Letter, str]]:
    """Apply one change per key; return those without an agent to belong to. A session ends at any moment, and what its
    agent wrote a moment later is nobody's fault: that is dropped, in KV too."""
    wanted = given.newest
    hold_epochs(db, wanted)
    locked = {place for (place,) in execute_bound(db, target.query("lock"), given.parameters)}
    are_locked = booleans(place in locked for place in range(len(wanted)))
    with pruning(db):
        places = execute_bound(db, target.query("flush"), {**given.parameters, "are_locked": are_locked})
    verdicts: dict[str, list[Wanted]] = {}
    for place, verdict in places:
        verdicts.setdefault(verdict, []).append(wanted[place])
    fenced = verdicts.get("fenced", [])
    if fenced:
        fence(db, target, fenced)
    waiting, unknown = verdicts.get("waits", []), verdicts.get("unknown", [])
    done.waiting += [change.letter for change, _ in waiting]
    done.stale += len(verdicts.get("stale", []))
    done.fenced += len(fenced)
    done.replaced += len(given.wanted) - len(wanted)
    done.applied += len(wanted) - len(places)
    if target.keeps_unknown:
        return [(change.letter, UNKNOWN) for change, _ in unknown]
    if unknown:
        done.ended += len(unknown)
        gone = {"keys": [c.key for c, _ in unknown], "revisions": [c.revision for c, _ in unknown]}
        execute_bound(db, target.query("end"), to_arrays(gone))
    return []


def hold_epochs(db: BaseDatabaseWrapper, wanted: Sequence[Wanted]) -> None:
    """Where writers named their epoch, keep a successor from taking over until this batch is in."""
    agents = {identity[0] for change, identity in wanted if change.agent_epoch}
    if agents:
        execute_bound(db, QUERIES.text("hold_epochs"), to_arrays({"agent_ids": sorted(agents)}))


def parameters(target: Target, wanted: Sequence[Wanted]) -> dict[str, object]:
    changes = [change for change, _ in wanted]
    return {
        **target.identities([identity for _, identity in wanted]),
        "epoch": changes[0].letter.epoch,
        "keys": [change.key for change in changes],
        "values": [change.value for change in changes],
        "revisions": [change.revision for change in changes],
        "are_own": [change.is_own for change in changes],
        "agent_epochs": [change.agent_epoch for change in changes],
        "expire_ats": [change.expires_at for change in changes],
        "stored_ats": [change.letter.stored_at for change in changes],
    }


def fence(db: BaseDatabaseWrapper, target: Target, wanted: Sequence[Wanted]) -> None:
    """Refuse the writes of agents that a successor has replaced."""
    execute_bound(db, target.query("fence"), to_arrays(parameters(target, wanted)))
