"""One stream of JetStream as a file, and back: the server's own snapshot API, without the `nats` program.

A snapshot of a stream that only grows is exact while it grows. One of a bucket whose keys are overwritten meanwhile
silently lacks keys, and the server says nothing: hence the fence, the comparisons, and the proof in another server.
The file and `backup.json` beside it are what `nats stream restore` takes, too.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.connection import Client
from recovery.errors import Damaged, SnapshotFailed

FILE, REPLY = "stream.tar.s2", "backup.json"
CHUNK_BYTES = 256 << 10  # in larger ones less is packed while others are on their way
WINDOW_BYTES = 16 << 20  # in flight; the server drops a snapshot of which nothing is taken for 5 s
IDLE_SECONDS = 5
HINT = "see nats-server's log, and run the command again"
# what must be equal before, in the reply, after, and in a restored copy
COMPARED = ("messages", "first_seq", "last_seq", "num_subjects", "num_deleted")
# a copy that is only looked at: nothing runs out, nothing is reserved, nothing is taken from elsewhere
LOOKED_AT = {
    "max_age": 0, "max_bytes": -1, "max_msgs": -1, "num_replicas": 1, "sources": None, "republish": None,
    "placement": None, "discard": "old", "deny_delete": False,
}  # fmt: skip


@dataclass(frozen=True)
class Snapshot:
    """A stream as it was stored: the server's own words of its settings and state; `folder` holds FILE and REPLY."""

    stream: str
    folder: Path
    config: Mapping[str, Any]
    state: Mapping[str, Any]

    @property
    def path(self) -> Path:
        return self.folder / FILE

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size


def read_snapshot(folder: Path) -> Snapshot:
    """Return a stored snapshot. Raises Damaged."""
    try:
        body = json.loads((folder / REPLY).read_text("utf-8"))
        return Snapshot(body["config"]["name"], folder, body["config"], body["state"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(
            f"{folder / REPLY}: {error}", "choose another backup: `manage.py backup list`"
        ) from error


async def take(client: Client, stream: str, folder: Path) -> Snapshot:
    """Store a stream in `folder`, which must not exist. Neither synced nor proved yet. Raises SnapshotFailed."""
    folder.mkdir(mode=0o700, parents=True)
    inbox = client.nc.new_inbox()
    subscription = await client.nc.subscribe(inbox, pending_msgs_limit=-1, pending_bytes_limit=-1)
    try:
        request = {
            "deliver_subject": inbox, "no_consumers": True, "jsck": False,
            "chunk_size": CHUNK_BYTES, "window_size": WINDOW_BYTES,
        }  # fmt: skip
        reply = await ask(client, f"$JS.API.STREAM.SNAPSHOT.{stream}", json.dumps(request).encode(), stream)
        with open_private(folder / FILE) as out:
            await receive(client, subscription, out, stream)
    finally:
        if not client.nc.is_closed:
            await subscription.unsubscribe()
    (folder / REPLY).write_text(json.dumps({"config": reply["config"], "state": reply["state"]}, indent=1))
    return Snapshot(stream, folder, reply["config"], reply["state"])


def open_private(path: Path) -> Any:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


async def receive(client: Client, subscription: Any, out: Any, stream: str) -> None:
    """Write the chunks as they come; each is answered, or the server sends no more."""
    while True:
        try:
            message = await subscription.next_msg(timeout=IDLE_SECONDS)
        except Exception as error:  # nats-py's own time-out, or the connection is closed
            raise SnapshotFailed(f"stream {stream}: the snapshot broke off: {error!r}", HINT) from error
        if not message.data:  # the end; small ones come without a status
            status = (message.headers or {}).get("Status", "204")
            if status != "204":
                said = (message.headers or {}).get("Description", "")
                raise SnapshotFailed(f"stream {stream}: the server gave up: {status} {said}".rstrip(), HINT)
            return
        out.write(message.data)
        if message.reply:
            await client.nc.publish(message.reply, b"")


async def put_back(client: Client, snapshot: Snapshot, changed: Mapping[str, Any]) -> dict[str, Any]:
    """Make the stream from its snapshot, with these settings `changed` (None: left out); return its state.

    The server must not have it. Raises SnapshotFailed, and then it has not: a damaged file is noticed by the server.
    """
    config = {name: value for name, value in {**snapshot.config, **changed}.items() if value is not None}
    request = json.dumps({"config": config, "state": snapshot.state}).encode()
    reply = await ask(client, f"$JS.API.STREAM.RESTORE.{snapshot.stream}", request, snapshot.stream)
    place = reply["deliver_subject"]
    with snapshot.path.open("rb") as file:
        while chunk := file.read(min(CHUNK_BYTES, client.nc.max_payload)):
            await ask(client, place, chunk, snapshot.stream)
    made = await ask(client, place, b"", snapshot.stream)
    state: dict[str, Any] = made["state"]
    return state


async def ask(client: Client, subject: str, data: bytes, stream: str) -> dict[str, Any]:
    """Return the server's answer; {} for an empty one. Raises SnapshotFailed for an error."""
    reply = await client.nc.request(subject, data, timeout=IDLE_SECONDS)
    answer: dict[str, Any] = json.loads(reply.data) if reply.data else {}
    if error := answer.get("error"):
        raise SnapshotFailed(f"stream {stream}: {error.get('description')} ({error.get('err_code')})", HINT)
    return answer


async def read_state(client: Client, stream: str) -> dict[str, Any]:
    """Return the stream's state in the server's own words. Raises SnapshotFailed where it is not there."""
    answer = await ask(client, f"$JS.API.STREAM.INFO.{stream}", b"", stream)
    state: dict[str, Any] = answer["state"]
    return state


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return in which of COMPARED two states of a stream differ, in words."""
    is_empty = not one["messages"] and not other["messages"]
    names = [
        name for name in COMPARED if not (is_empty and name == "first_seq")
    ]  # 0 or 1 where there is none
    pairs = [(name, one.get(name, 0), other.get(name, 0)) for name in names]
    return [f"{name} {before}, then {after}" for name, before, after in pairs if before != after]


async def prove(client: Client, snapshot: Snapshot) -> list[str]:
    """Restore a snapshot into a throw-away server and take it away again; return what is wrong with it."""
    try:
        state = await put_back(client, snapshot, LOOKED_AT)
    except SnapshotFailed as error:
        return [str(error)]
    await client.jetstream.delete_stream(snapshot.stream)
    found = differences(snapshot.state, state)
    return [f"stream {snapshot.stream}: its snapshot restores otherwise: {'; '.join(found)}"] if found else []
