"""Bring JetStream to the moment that PostgreSQL was restored to, and let the bridge go on.

Streams that only grow and the buckets that PostgreSQL owns come from a cross-system backup, cut at its moment. What
agents write comes from PostgreSQL, after what it had not flushed yet is applied from the backup's FLUSH stream. What
the restored outbox still holds is what JetStream has not seen: the relay brings it, and reconcile proves it. To a
moment of which there is no cross-system backup all buckets are made from PostgreSQL.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from bridge import connection, setup, topology
from bridge.comparing import Verdict
from bridge.connection import Client
from bridge.hold import RESTORING, Restored, read_hold, release
from bridge.rebuild import plan_rebuild, rebuild
from bridge.reconcile import reconcile
from bridge.session import open_session
from bridge.sources import note_epochs
from pg.errors import Refused
from recovery.bringing_streams import (
    CALL_SECONDS,
    RESTORED_FOR,
    Mode,
    Plan,
    clear,
    make_the_rest,
    mark_of,
    put_streams_back,
)
from recovery.jetstream import LOOKED_AT, Snapshot, put_back
from recovery.keeping import keepings
from recovery.replay import (
    Replayed,
    hand_to_relay,
    renumber,
    replay,
    shared_buckets,
    skip_lost_ids,
    up_to_revision,
    up_to_time,
)
from recovery.restore_source import Source, find_source
from recovery.throwaway import throwaway_nats

log = logging.getLogger(__name__)


@dataclass
class Done:
    """What was done. No problems: both are at the moment, but for what waits in the outbox. `lost` keys were missing or
    old in JetStream, `repaired` ones were brought to what PostgreSQL says."""

    streams: list[str] = field(default_factory=list)
    replayed: list[Replayed] = field(default_factory=list)
    rebuilt: dict[str, int] = field(default_factory=dict)
    outbox_rows: int = 0
    compared: int = 0
    lost: int = 0
    repaired: int = 0
    problems: list[str] = field(default_factory=list)


def plan_jetstream(db: BaseDatabaseWrapper, mode: Mode = "") -> Plan:
    """Return what `restore_jetstream` would do; changes nothing.

    Raises Refused where PostgreSQL was not restored, or the server holds messages and `mode` says nothing of them;
    Damaged, Unreachable.
    """
    restored = read_hold(db)
    if restored is None:
        raise Refused(
            "PostgreSQL was not restored: nothing waits for JetStream",
            "is JetStream empty? `manage.py bridge setup`, then `manage.py bridge rebuild`",
        )
    occupied = occupied_streams(restored)
    if occupied and not mode:
        raise Refused(
            f"JetStream holds messages: {', '.join(occupied)}",
            "--keep: PostgreSQL lost its newest moments only, take them back from JetStream;"
            " --replace: delete all that, JetStream goes back to the same moment",
        )
    source, warnings = find_source(restored)
    return Plan(restored, source, mode if occupied else "", occupied, warnings)


def occupied_streams(restored: Restored) -> list[str]:
    """Return the declared streams with messages, but for those that an earlier try of the same restore has made."""
    found = setup.read_found()
    return sorted(
        name
        for name, state in found.states.items()
        if state["messages"] and (found.configs[name].metadata or {}).get(RESTORED_FOR) != mark_of(restored)
    )


# -- doing it -----------------------------------------------------------------------------------------------
@contextmanager
def restoring_session(elsewhere: dict[str, Any] | None = None) -> Iterator[BaseDatabaseWrapper]:
    """Give a session that works although the bridge is held."""
    with open_session(("SET application_name = 'mistersmith restore'", RESTORING), elsewhere) as db:
        yield db


def restore_jetstream(db: BaseDatabaseWrapper, plan: Plan, place: Path) -> Done:
    """Do what the plan says, with a throw-away server below `place`; then the bridge goes on.

    `db` is restoring_session's. Safe to repeat after it was stopped anywhere: the bridge stands still until the last
    step. Raises NotInStep, SnapshotFailed, Unreachable.
    """
    done = Done()
    skip_lost_ids(db)
    if plan.mode == "keep":
        keep(db, plan, done)
    else:
        bring_back(db, plan, done, place)
    done.outbox_rows = count_outbox(db)
    prove(db, done)
    if not done.problems:
        release(db)
    return done


def bring_back(db: BaseDatabaseWrapper, plan: Plan, done: Done, place: Path) -> None:
    kept, source = keepings(), plan.source
    clear(kept, plan)
    if source.stored is not None:
        done.streams = put_streams_back(kept, plan, source.stored)
    make_the_rest(plan)
    if source.later is not None:
        done.replayed = replay_flushes(db, source, place)
    note_epochs(db, setup.read_found().created)
    for replayed in done.replayed:
        hand_to_relay(db, replayed)
    wanted = shared_buckets() if source.is_exact else []
    done.rebuilt = {each.mirror.bucket: rebuild(db, each).stored for each in plan_rebuild(db, wanted)}


def replay_flushes(db: BaseDatabaseWrapper, source: Source, place: Path) -> list[Replayed]:
    """Apply from the backup's FLUSH streams what PostgreSQL lacks at the moment."""
    stored = source.later
    assert stored is not None  # noqa: S101  (the caller looked)
    done = []
    with throwaway_nats(place):
        for bucket in shared_buckets():
            snapshot, at = stored.snapshots[f"FLUSH_{bucket}"], stored.places[bucket]
            connection.call(lambda client, s=snapshot: look_into(client, s), CALL_SECONDS)  # type: ignore[misc]
            until = up_to_revision(at.last_revision) if source.is_exact else up_to_time(source.moment)  # type: ignore[arg-type]
            done.append(replay(db, bucket, at.kv_epoch, until))
    return done


async def look_into(client: Client, snapshot: Snapshot) -> None:
    await put_back(client, snapshot, LOOKED_AT)


# -- JetStream is ahead of PostgreSQL -----------------------------------------------------------------------
def keep(db: BaseDatabaseWrapper, plan: Plan, done: Done) -> None:
    """Take back from JetStream what agents did since: their state from the FLUSH streams, messages from the consumers'
    beginnings. Both are applied by position or id, so what PostgreSQL has stays."""
    make_the_rest(plan)
    found = setup.read_found()
    for bucket in shared_buckets():
        epoch = topology.flush_epoch(found.configs[f"FLUSH_{bucket}"])
        done.replayed.append(replay(db, bucket, epoch, lambda letter: True))
    note_epochs(db, found.created)
    for consumer in topology.consumers().values():
        if consumer.name != topology.FLUSHER:
            connection.call(lambda client, c=consumer: client.jetstream.delete_consumer(c.stream, c.name))  # type: ignore[misc]
    make_the_rest(plan)
    renumber(db)


# -- proof --------------------------------------------------------------------------------------------------
def count_outbox(db: BaseDatabaseWrapper) -> int:
    with db.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM bridge.outbox")
        return int(cursor.fetchone()[0])


def prove(db: BaseDatabaseWrapper, done: Done) -> None:
    """Compare every row with its key, and repair. What waits in the outbox is in flight, not wrong."""
    for report in reconcile(db, repair=True):
        done.compared += sum(report.found.values())
        done.lost += report.found[Verdict.MISSING] + report.found[Verdict.STALE]
        done.repaired += report.repaired
        if report.left:
            done.problems.append(f"{report.bucket}: {report.left} keys differ: {', '.join(report.named[:3])}")
