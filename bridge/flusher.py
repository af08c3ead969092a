"""The flusher's unit of work: one batch of what agents wrote to a bucket, into PostgreSQL.

Every change has a position, and of two changes of a key the one with the higher position wins, whatever the order in
which they arrive: so a batch may be applied twice, late, or beside another flusher's. What cannot be applied is set
apart in the same transaction. Where a write from PostgreSQL is on its way to the same key, the change waits until the
relay has settled who wins.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from django.db import DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper

from bridge import topology
from bridge.arrays import to_literals
from bridge.changes import Change, Letter, Unreadable, newest, read_change
from bridge.dead_letters import bury, is_poison
from bridge.keys import is_fence
from bridge.session import execute, savepoint, transaction
from bridge.targets import QUERIES, Identity, Target

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


def flush_batch(db: BaseDatabaseWrapper, target: Target, letters: Sequence[Letter]) -> Flushed:
    """Apply what the messages say, in one transaction; when it returns, all but `waiting` may be acknowledged.

    Running it again with any of the messages changes nothing. Raises the database's errors, and has then done nothing.
    """
    done = Flushed(read=len(letters))
    changes, unreadable = read_changes(target, letters, done)
    with transaction(db):
        execute(db, "SET LOCAL sync.origin = 'kv'")
        errors = unreadable + apply_all(db, target, changes, done)
        bury(db, topology.FLUSHER, f"FLUSH_{target.bucket}", errors)
    done.dead = len(errors)
    return done


def read_changes(
    target: Target, letters: Sequence[Letter], done: Flushed
) -> tuple[list[Change], list[tuple[Letter, str]]]:
    """Return the changes that the messages mean, and the messages that mean none, with the reason."""
    changes: list[Change] = []
    unreadable: list[tuple[Letter, str]] = []
    for letter in letters:
        try:
            change = read_change(letter, target.bucket)
            if change is None or is_fence(change.key):
                done.own += 1
            elif target.parse(change.key) is None:
                raise Unreadable(f"{change.key!r} is no key of {target.bucket}")
            else:
                changes.append(change)
        except Unreadable as error:
            unreadable.append((letter, str(error)))
    return changes, unreadable


def apply_all(
    db: BaseDatabaseWrapper, target: Target, changes: Sequence[Change], done: Flushed
) -> list[tuple[Letter, str]]:
    """Apply the changes; return those that PostgreSQL will never take, with its reason. A batch with such a change is
    halved until it is alone, so that the others, earlier ones of its own key too, go in."""
    if not changes:
        return []
    try:
        with savepoint(db):
            return apply_newest(db, target, newest(changes), len(changes), done)
    except DatabaseError as error:
        if not is_poison(error):
            raise
        if len(changes) == 1:
            return [(changes[0].letter, str(error).strip())]
    half = len(changes) // 2
    return [
        *apply_all(db, target, changes[:half], done),
        *apply_all(db, target, changes[half:], done),
    ]


def apply_newest(
    db: BaseDatabaseWrapper, target: Target, changes: Sequence[Change], read: int, done: Flushed
) -> list[tuple[Letter, str]]:
    """Apply one change per key; return those without an agent to belong to. A session ends at any moment, and what its
    agent wrote a moment later is nobody's fault: that is dropped, in KV too."""
    identities = [identity for change in changes if (identity := target.parse(change.key))]
    hold_epochs(db, changes, identities)
    execute(db, target.query("lock"), to_literals(target.identities(identities)))
    places = execute(db, target.query("flush"), to_literals(parameters(target, changes, identities)))
    verdicts: dict[str, list[Change]] = {}
    for place, verdict in places:
        verdicts.setdefault(verdict, []).append(changes[place])
    fenced = verdicts.get("fenced", [])
    if fenced:
        fence(db, target, fenced)
    waiting, unknown = verdicts.get("waits", []), verdicts.get("unknown", [])
    done.waiting += [change.letter for change in waiting]
    done.stale += len(verdicts.get("stale", []))
    done.fenced += len(fenced)
    done.replaced += read - len(changes)
    done.applied += len(changes) - len(places)
    if target.keeps_unknown:
        return [(change.letter, UNKNOWN) for change in unknown]
    if unknown:
        done.ended += len(unknown)
        keys = {"keys": [c.key for c in unknown], "revisions": [c.revision for c in unknown]}
        execute(db, target.query("end"), to_literals(keys))
    return []


def hold_epochs(db: BaseDatabaseWrapper, changes: Sequence[Change], identities: Sequence[Identity]) -> None:
    """Where writers named their epoch, keep a successor from taking over until this batch is in."""
    agents = {identity[0] for change, identity in zip(changes, identities, strict=True) if change.agent_epoch}
    if agents:
        execute(db, QUERIES.text("hold_epochs"), {"agent_ids": sorted(agents)})


def parameters(
    target: Target, changes: Sequence[Change], identities: Sequence[Identity]
) -> dict[str, object]:
    return {
        **target.identities(identities),
        "epoch": changes[0].letter.epoch,
        "places": list(range(len(changes))),
        "keys": [change.key for change in changes],
        "values": [change.value for change in changes],
        "revisions": [change.revision for change in changes],
        "are_own": [change.is_own for change in changes],
        "agent_epochs": [change.agent_epoch for change in changes],
        "expire_ats": [change.expires_at for change in changes],
        "stored_ats": [change.letter.stored_at for change in changes],
    }


def fence(db: BaseDatabaseWrapper, target: Target, changes: Sequence[Change]) -> None:
    """Refuse the writes of agents that a successor has replaced."""
    identities = [identity for change in changes if (identity := target.parse(change.key))]
    execute(db, target.query("fence"), to_literals(parameters(target, changes, identities)))
