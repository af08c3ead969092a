"""The newest message of each subject, read directly from a stream: one by one, or many by one request."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from bridge.headers import MARKER, OPERATION, SYNC_ID, SYNC_ORIGIN
from bridge.keys import is_subject
from pg.errors import Unreachable

FEW = 10  # subjects that are read one by one
# Subjects of one request for the newest of each: nats-server takes 0.13 ms for each that is there, and writes to the
# stream wait meanwhile, a single one of the fast path too.
LAST_AT_ONCE = 50
MULTI_GET = 1_000  # messages per read; the server refuses more than 1,024
ANSWER_BYTES = (
    8 << 20
)  # per read: nats-server (max_pending, 64 MiB) cuts off a client that it has more waiting for


@dataclass(frozen=True)
class Last:
    """The newest message of a subject. `sync_id`: the outbox id it was stored under, 0 when it came from elsewhere;
    `is_foreign`: neither relay, fast path nor reconcile wrote it, an agent did; `is_deleted`: it says that the key is
    gone (deleted, purged, expired); `stored_at`: by the server's clock, None where nobody asks for it."""

    revision: int
    sync_id: int = 0
    is_foreign: bool = False
    is_deleted: bool = False
    data: bytes = b""
    stored_at: datetime | None = None


@contextmanager
def answering(stream: str) -> Iterator[None]:
    """Turn a silent or lost server into Unreachable."""
    try:
        yield
    except (
        nats.errors.TimeoutError,
        nats.errors.ConnectionClosedError,
        nats.errors.OutboundBufferLimitError,
    ):
        raise Unreachable(
            f"stream {stream} does not answer", "is nats-server up? run manage.py doctor"
        ) from None


async def read_one(nc: Client, stream: str, subject: str, timeout_seconds: float) -> Last | None:
    """Return the newest message of one subject; None: it has none. Raises Unreachable."""
    try:
        with answering(stream):
            message = await nc.request(f"$JS.API.DIRECT.GET.{stream}.{subject}", timeout=timeout_seconds)
    except nats.errors.NoRespondersError:
        raise Unreachable(f"stream {stream} answers 503", "run manage.py bridge setup") from None
    status = (message.headers or {}).get("Status")
    if status is None:
        return to_last(message)
    is_end(stream, status, message.headers)
    return None


async def read_last(
    nc: Client, stream: str, subjects: Sequence[str], timeout_seconds: float
) -> dict[str, Last]:
    """Return the newest message of each subject that has one, by batched direct get.

    A replica may answer, and may lag: good enough for a compare-and-set that is checked by the leader, never for
    the truth. Raises Unreachable.
    """
    possible = [subject for subject in subjects if is_subject(subject)]
    if len(possible) <= FEW:
        read = await asyncio.gather(*(read_one(nc, stream, name, timeout_seconds) for name in possible))
        return {name: last for name, last in zip(possible, read, strict=True) if last}
    found: dict[str, Last] = {}
    for wanted in chunks(possible, LAST_AT_ONCE):
        missing = list(wanted)
        while missing:
            request = {"multi_last": missing, "batch": MULTI_GET, "max_bytes": ANSWER_BYTES}
            messages, is_complete = await direct_get(nc, stream, request, timeout_seconds)
            found |= {message.headers["Nats-Subject"]: to_last(message) for message in messages}
            missing = [subject for subject in missing if subject not in found]
            if is_complete or not messages:
                break
    return found


async def read_sync_ids(
    nc: Client, stream: str, subject: str, timeout_seconds: float, since: datetime | None = None
) -> set[int]:
    """Return the outbox ids of all messages that `stream` still holds under `subject`, or of those stored `since`.
    Raises Unreachable."""
    ids: set[int] = set()
    start: dict[str, Any] = {"start_time": since.isoformat()} if since else {"seq": 1}
    while True:
        request = {**start, "next_by_subj": subject, "batch": MULTI_GET, "max_bytes": ANSWER_BYTES}
        messages, is_complete = await direct_get(nc, stream, request, timeout_seconds)
        ids |= {to_last(message).sync_id for message in messages} - {0}
        if is_complete or not messages:
            return ids
        start = {"seq": to_last(messages[-1]).revision + 1}


async def direct_get(
    nc: Client, stream: str, request: Mapping[str, Any], timeout_seconds: float
) -> tuple[list[Msg], bool]:
    """Ask for messages in one batch; return them, and whether the server sent all that there were."""
    messages: list[Msg] = []
    inbox = nc.new_inbox()
    subscription = await nc.subscribe(inbox)
    try:
        with answering(stream):
            await nc.publish(f"$JS.API.DIRECT.GET.{stream}", json.dumps(request).encode(), reply=inbox)
            while True:
                message = await subscription.next_msg(timeout=timeout_seconds)
                status = (message.headers or {}).get("Status")
                if status is not None:
                    return messages, is_end(stream, status, message.headers)
                messages.append(message)
    finally:
        if not nc.is_closed:
            await subscription.unsubscribe()


def is_end(stream: str, status: str, headers: Mapping[str, str]) -> bool:
    """Tell whether the last message of a batch says that nothing is left; raise Unreachable for an error."""
    if status in ("404", "204"):
        return int(headers.get("Nats-Num-Pending", 0)) == 0
    hint = "run manage.py bridge setup" if status == "503" else "see nats-server's log"
    raise Unreachable(f"stream {stream} answers {status} {headers.get('Description', '')}".rstrip(), hint)


def to_last(message: Msg) -> Last:
    return make_last(int(message.headers["Nats-Sequence"]), message.headers, message.data)


def make_last(revision: int, headers: Mapping[str, str], data: bytes) -> Last:
    is_marker = MARKER in headers
    is_foreign = not is_marker and SYNC_ORIGIN not in headers
    time = headers.get("Nats-Time-Stamp") if is_foreign else None
    return Last(
        revision,
        int(headers.get(SYNC_ID, 0)),
        is_foreign,
        is_deleted=is_marker or headers.get(OPERATION) in ("DEL", "PURGE"),
        data=data,
        stored_at=datetime.fromisoformat(time) if time else None,
    )


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
