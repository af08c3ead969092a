"""The moment of a cross-system backup: PostgreSQL and JetStream are held still against each other, and both are marked.

Under the fence relay, fast path, flusher and repairs wait; agents and PostgreSQL's writers do not. What agents write
meanwhile lies after the mark, in their bucket and its FLUSH stream.
"""

import asyncio
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg

from bridge import connection
from bridge.connection import Client
from bridge.fence import FENCE
from bridge.topology import COPY_OF, epoch_of
from pg.errors import Refused
from recovery.errors import Busy, NotInStep
from recovery.jetstream import Snapshot, ask, differences, read_state, take
from recovery.keeping import How, Keeping
from recovery.server import Server, Session
from recovery.wal import parse_lsn

LOCK_SECONDS = 10  # a relay's batch in hand is waited for
FENCE_SECONDS = 5  # the longest that anybody is kept waiting
TRIES = 3


@dataclass(frozen=True)
class Place:
    """Where a bucket that agents write stood. `last_revision`: all acknowledged writes before the moment are at most
    that; `flushed_sequence`: of its FLUSH stream PostgreSQL has at least all up to here."""

    kv_epoch: int
    last_revision: int
    flushed_sequence: int


@dataclass
class Moment:
    """`marks` are the last sequences by stream; what a stream holds beyond came later. `epochs` are those of which the
    ids of its messages were minted. `waited_ms` until the last
    publisher had ended its batch, `fenced_ms` from then until they went on."""

    name: str
    lsn: int = 0
    at: datetime | None = None
    marks: dict[str, int] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    snapshots: list[Snapshot] = field(default_factory=list)
    waited_ms: float = 0.0
    fenced_ms: float = 0.0


def take_moment(server: Server, name: str, kept: list[Keeping], folder: Path) -> Moment:
    """Mark the moment `name` in both, and store what must be stored under the fence below `folder`.

    The fence falls with the session: when we are killed, and after FENCE_SECONDS in any case. Raises Busy when a
    publisher does not end its batch, Refused without the privilege, NotInStep when somebody writes past the fence,
    SnapshotFailed, Unreachable.
    """
    moment = Moment(name)
    connection.call(connected)  # making a connection is nothing to keep anybody waiting for
    with server.connect() as session, fence(session, moment):
        connection.call(lambda client: mark_streams(client, kept, folder, moment), FENCE_SECONDS)
        mark_database(session, moment)
    return moment


async def connected(_client: Client) -> None:
    """Whoever calls this has a connection afterwards."""


@contextmanager
def fence(session: Session, moment: Moment) -> Iterator[None]:
    """Hold the bridge's fence, measured."""
    session.execute("SELECT set_config('lock_timeout', %s, false)", [f"{LOCK_SECONDS}s"])
    began = time.monotonic()
    try:
        session.execute(f"SELECT pg_advisory_lock({FENCE})")
    except psycopg.errors.LockNotAvailable as error:
        raise Busy(
            f"the bridge did not pause within {LOCK_SECONDS} s", "see `manage.py bridge status`"
        ) from error
    held = time.monotonic()
    moment.waited_ms = round((held - began) * 1000, 1)
    try:
        yield
    finally:
        session.execute(f"SELECT pg_advisory_unlock({FENCE})")
        moment.fenced_ms = round((time.monotonic() - held) * 1000, 1)


async def mark_streams(client: Client, kept: list[Keeping], folder: Path, moment: Moment) -> None:
    """Note where every stream that is kept stands; store the fenced ones, compared before, in the reply and after."""
    marked = [k for k in kept if k.how is not How.NOT_KEPT]  # a cache may be gone
    asked = (ask(client, f"$JS.API.STREAM.INFO.{k.stream}", b"", k.stream) for k in marked)
    found = dict(zip((k.stream for k in marked), await asyncio.gather(*asked), strict=True))
    moment.marks = {stream: info["state"]["last_seq"] for stream, info in found.items()}
    moment.epochs = {stream: epoch_in(info) for stream, info in found.items()}
    fenced = [k.stream for k in kept if k.is_fenced]
    takes = [take_still(client, stream, folder / stream, found[stream]["state"]) for stream in fenced]
    moment.snapshots = list(await asyncio.gather(*takes))
    for k in kept:
        if k.how is How.REBUILD:
            moment.places[k.name] = Place(moment.epochs[k.stream], moment.marks[k.stream], 0)


def epoch_in(info: dict[str, Any]) -> int:
    """Return a stream's epoch from the server's own words: of one that was restored, that of its original."""
    copied = int((info["config"].get("metadata") or {}).get(COPY_OF, 0))
    return copied or epoch_of(datetime.fromisoformat(info["created"]))


async def take_still(client: Client, stream: str, folder: Path, before: dict[str, Any]) -> Snapshot:
    """Store a stream that nobody may write now. What runs out meanwhile costs another try. Raises NotInStep."""
    found: list[str] = []
    for _ in range(TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        snapshot = await take(client, stream, folder)
        after = await read_state(client, stream)
        found = differences(before, snapshot.state) + differences(snapshot.state, after)
        if not found:
            return snapshot
        before = after
    raise NotInStep(
        f"stream {stream} changes under the fence: {'; '.join(found)}",
        "who else than the bridge publishes there? Only the control plane may (permissions in NATS)",
    )


def mark_database(session: Session, moment: Moment) -> None:
    """Note how far the flusher's commits go, and put the named restore point into the WAL."""
    session.execute("SELECT set_config('statement_timeout', %s, false)", [f"{FENCE_SECONDS}s"])
    rows = session.execute("SELECT bucket, kv_epoch, flushed_sequence FROM bridge.sources").fetchall()
    for bucket, epoch, sequence in rows:
        if (place := moment.places.get(bucket)) is not None:
            is_same = epoch == place.kv_epoch  # else nothing of this bucket is flushed yet
            moment.places[bucket] = Place(place.kv_epoch, place.last_revision, sequence if is_same else 0)
    try:
        row = session.execute(
            "SELECT pg_create_restore_point(%s)::text, clock_timestamp()", [moment.name]
        ).fetchone()
    except psycopg.errors.InsufficientPrivilege as error:
        raise Refused(
            "the role of DATABASE_URL may not make restore points",
            "as a superuser: GRANT EXECUTE ON FUNCTION pg_create_restore_point(text), pg_switch_wal() TO <role>",
        ) from error
    moment.lsn, moment.at = parse_lsn(row[0]), row[1]  # type: ignore[index]
