"""Streams that only grow: stored without a fence, once they hold all that was acknowledged before the moment.

After the moment, not before it: an event published between a snapshot and the fence would be in neither (its outbox
row is gone at the moment), and an agent's write acknowledged just before it is not in the FLUSH stream yet, which takes
from its bucket a little later. What such a snapshot holds beyond the mark is left out when it is restored.
"""

import json
import os
import time
from pathlib import Path

from bridge import connection
from bridge.changes import read_revision
from bridge.connection import Client
from bridge.topology import EPOCH
from recovery.errors import NotInStep, SnapshotFailed
from recovery.jetstream import FILE, REPLY, Snapshot, ask, prove, take
from recovery.keeping import How, Keeping
from recovery.manifest import sync_folder
from recovery.moment import Moment
from recovery.throwaway import throwaway_nats

SOURCE_SECONDS = 30  # how long a FLUSH stream may be behind its bucket
SNAPSHOT_SECONDS = 4 * 3600
PROOF_SECONDS = 4 * 3600
POLL_SECONDS = 0.05


def take_growing(kept: list[Keeping], folder: Path, moment: Moment) -> None:
    """Store the streams that only grow below `folder`. Raises NotInStep, SnapshotFailed, Unreachable."""
    for keeping in kept:
        if keeping.has_snapshot and not keeping.is_fenced:
            if keeping.how is How.REPLAY:
                wait_for_source(keeping.name, moment)
            snapshot = take_one(keeping.stream, folder / keeping.stream)
            require_reaches(snapshot, moment)
            moment.snapshots.append(snapshot)


def take_one(stream: str, folder: Path) -> Snapshot:
    return connection.call(lambda client: take(client, stream, folder), SNAPSHOT_SECONDS)


def wait_for_source(name: str, moment: Moment) -> None:
    """Return when a FLUSH stream holds all that its bucket held at the moment. Raises NotInStep."""
    bucket = name.removeprefix("FLUSH_")
    deadline = time.monotonic() + SOURCE_SECONDS
    while not connection.call(lambda client: has_all(client, bucket, moment)):
        if time.monotonic() > deadline:
            raise NotInStep(
                f"{name} does not follow its bucket: it lacks what agents wrote before the moment",
                "is `manage.py bridge run` at work? See `manage.py bridge status`",
            )
        time.sleep(POLL_SECONDS)


async def has_all(client: Client, bucket: str, moment: Moment) -> bool:
    """Tell whether the FLUSH stream has the bucket's messages up to the moment's revision, as far as there are any."""
    flush, place = f"FLUSH_{bucket}", moment.places[bucket]
    info = await ask(client, f"$JS.API.STREAM.INFO.{flush}", b"", flush)
    if int((info["config"].get("metadata") or {}).get(EPOCH, 0)) != place.kv_epoch:
        return False  # it is of a former bucket, until its flusher has replaced it
    newest = await newest_revision(client, flush, info["state"]) if info["state"]["messages"] else 0
    return newest >= place.last_revision or not await holds_between(
        client, f"KV_{bucket}", newest, place.last_revision
    )


async def newest_revision(client: Client, flush: str, state: dict[str, int]) -> int:
    message = await client.jetstream.get_msg(flush, state["last_seq"])
    return read_revision(message.headers or {})


async def holds_between(client: Client, stream: str, after: int, until: int) -> bool:
    """Tell whether a bucket holds a message of a revision above `after` and up to `until`."""
    request = json.dumps({"seq": after + 1, "next_by_subj": ">"}).encode()
    reply = await client.nc.request(f"$JS.API.STREAM.MSG.GET.{stream}", request, timeout=5)
    found = json.loads(reply.data).get("message")
    return bool(found and found["seq"] <= until)


def require_reaches(snapshot: Snapshot, moment: Moment) -> None:
    mark = moment.marks[snapshot.stream]
    if snapshot.state["last_seq"] < mark:
        raise SnapshotFailed(
            f"stream {snapshot.stream} ends at {snapshot.state['last_seq']}, it was at {mark} before",
            "was it made anew meanwhile? Run the command again",
        )


def prove_all(snapshots: list[Snapshot], place: Path) -> None:
    """Restore each snapshot into a throw-away server with its files below `place`, and compare. Raises NotInStep.

    The server that took a snapshot does not say when it lacks something; only this does.
    """
    problems: list[str] = []
    with throwaway_nats(place):
        for snapshot in snapshots:
            problems += connection.call(lambda client, s=snapshot: prove(client, s), PROOF_SECONDS)  # type: ignore[misc]
    if problems:
        raise NotInStep("; ".join(problems), "run the command again; if it stays, see nats-server's log")


def sync_snapshots(snapshots: list[Snapshot]) -> None:
    """Make the files survive a power cut: not done under the fence."""
    for snapshot in snapshots:
        for name in (FILE, REPLY):
            handle = os.open(snapshot.folder / name, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        sync_folder(snapshot.folder)
