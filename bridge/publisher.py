"""Publishing to JetStream, in atomic batches or pipelined, and batched reads of the newest message per subject.

nats-py's own publish_async never resolves when the server answers with an error, and has no time-out.
"""

import asyncio
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from bridge import batches
from bridge.headers import MARKER, OPERATION, SYNC_ID, SYNC_ORIGIN
from bridge.keys import is_subject
from pg.errors import Unreachable

# Messages are sent in parts, the next one while the one before is answered. A server that syncs each write answers some
# thousands a second, and who writes a single message to the same stream meanwhile waits behind all that are in flight.
LEAST, MOST = 4, 250  # messages in a part
ANSWER_SECONDS = 0.005  # a part shall be answered within
FEW = 10  # subjects that are read one by one
# Subjects of one request for the newest of each: nats-server takes 0.13 ms for each that is there, and writes to the
# stream wait meanwhile, a single one of the fast path too.
LAST_AT_ONCE = 50
MULTI_GET = 1_000  # messages per read; the server refuses more than 1,024
ANSWER_BYTES = (
    8 << 20
)  # per read: nats-server (max_pending, 64 MiB) cuts off a client that it has more waiting for

WRONG_LAST_SEQUENCE = 10071
TOO_LARGE = 10054
NO_RESPONDERS = 503
BAD_SUBJECT = 400  # found here: the server would not even answer


@dataclass(frozen=True)
class Message:
    """`stream`: the one that stores it, so that it may go in a batch; empty: it goes alone."""

    subject: str
    data: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of one message: stored as `sequence`, refused with `code`, or neither: nobody knows. `count` is how
    many messages were stored with it; 0: it came alone."""

    sequence: int | None = None
    code: int | None = None
    text: str = ""
    count: int = 0

    @property
    def is_stored(self) -> bool:
        return self.sequence is not None


UNKNOWN = Outcome(text="no answer in time")
UNBATCHED = Outcome(text="a nats-server that knows no batches took the messages of one")


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


@dataclass
class Pace:
    """How many messages go in one part: as many as are answered within ANSWER_SECONDS."""

    size: int = LEAST

    def note(self, number: int, seconds: float, is_unanswered: bool) -> None:
        """Learn from a part of `number` messages. Where nothing is answered small parts would only wait more often."""
        if is_unanswered:
            self.size = MOST
        elif seconds > ANSWER_SECONDS:
            self.size = max(LEAST, self.size // 2)
        elif number >= self.size:
            self.size = min(MOST, self.size * 2)


@dataclass
class Part:
    """Messages on their way; `waiting` has their outcomes by token."""

    sent_at: float
    waiting: dict[str, "asyncio.Future[Outcome]"] = field(default_factory=dict)


class Publisher:
    """Publishes many messages at once over one connection; every message gets an Outcome."""

    def __init__(self, nc: Client) -> None:
        self._nc = nc
        self._prefix = nc.new_inbox()
        self._numbers = itertools.count(1)
        self._waiting: dict[str, asyncio.Future[Outcome]] = {}
        self._pace = Pace()

    async def start(self) -> "Publisher":
        """Listen for acknowledgements; nats-py renews the subscription after a reconnect."""
        await self._nc.subscribe(f"{self._prefix}.*", cb=self._resolve)
        return self

    async def publish(self, messages: Sequence[Message], timeout_seconds: float) -> list[Outcome]:
        """Publish in the order of each stream; return the outcomes in the order of the messages. Never raises for a
        single message.

        `timeout_seconds` is for each part of the messages (a batch, or as many as `Pace` says). After an unknown
        outcome the message may still be stored, later: only a publish with Nats-Expected-Last-Subject-Sequence can
        safely be repeated.
        """
        is_worth_it = len(messages) >= batches.LEAST and batches.are_known(self._nc)
        lanes = batches.cut(messages) if is_worth_it else []
        if not lanes:
            return await self._publish_alone(messages, timeout_seconds)
        known: dict[int, Outcome] = {}
        for found in await asyncio.gather(*(self._publish_lane(messages, x, timeout_seconds) for x in lanes)):
            known |= found
        left = [place for place in range(len(messages)) if place not in known]
        outcomes = await self._publish_alone([messages[place] for place in left], timeout_seconds)
        known |= zip(left, outcomes, strict=True)
        return [known[place] for place in range(len(messages))]

    async def _publish_lane(
        self, messages: Sequence[Message], lane: Sequence[Sequence[int]], timeout_seconds: float
    ) -> dict[int, Outcome]:
        """Send the batches of one stream, each when the one before is stored; return the outcomes by place.

        Places that are not in the result go alone: those of a batch that was refused, for one wrong message perhaps,
        and, so that the order stays, of all after it. After silence nothing more is sent: nobody knows.
        """
        known: dict[int, Outcome] = {}
        for number, places in enumerate(lane):
            last = await self._send_batch([messages[place] for place in places], timeout_seconds)
            if last.code is not None:
                break
            if last.sequence is None:
                return known | {place: last for rest in lane[number:] for place in rest}
            first = last.sequence - len(places) + 1
            known |= {place: Outcome(first + n, count=last.count) for n, place in enumerate(places)}
        return known

    async def _send_batch(self, messages: Sequence[Message], timeout_seconds: float) -> Outcome:
        """Send the messages as one batch; return what became of the last one, which stands for all."""
        token = str(next(self._numbers))
        batch_id = f"{self._prefix.rsplit('.', 1)[1]}-{token}"
        future = self._waiting[token] = asyncio.get_running_loop().create_future()
        try:
            for number, message in enumerate(messages, 1):
                is_last = number == len(messages)
                part = replace(
                    message, headers=batches.with_batch(message.headers, batch_id, number, is_last)
                )
                reply = f"{self._prefix}.{token}" if is_last else ""
                if failure := await self._hand_over(part, reply):
                    return failure  # the server forgets what it has of a batch whose end does not come
            outcome = await asyncio.wait_for(future, timeout_seconds)
        except TimeoutError:
            return UNKNOWN
        finally:
            self._waiting.pop(token, None)
        return UNBATCHED if outcome.is_stored and outcome.count != len(messages) else outcome

    async def _publish_alone(self, messages: Sequence[Message], timeout_seconds: float) -> list[Outcome]:
        """Publish each message by itself, in parts (`Pace`)."""
        outcomes: list[Outcome] = []
        before: Part | None = None
        first = 0
        while first < len(messages):
            end = first + self._pace.size
            part = await self._send_part(messages[first:end])
            first = end
            if before:
                outcomes += await self._collect(before, timeout_seconds)
            before = part
        return outcomes + (await self._collect(before, timeout_seconds) if before else [])

    async def _send_part(self, messages: Sequence[Message]) -> "Part":
        part = Part(time.monotonic())
        for message in messages:
            token, future = await self._send(message)
            part.waiting[token] = future
        return part

    async def _send(self, message: Message) -> tuple[str, asyncio.Future[Outcome]]:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        token = str(next(self._numbers))
        self._waiting[token] = future
        failure = await self._hand_over(message, f"{self._prefix}.{token}")
        if failure and not future.done():
            future.set_result(failure)
        return token, future

    async def _hand_over(self, message: Message, reply: str) -> Outcome | None:
        """Give the message to the connection; return the outcome when it does not even leave."""
        if not is_subject(message.subject):
            return Outcome(code=BAD_SUBJECT, text=f"{message.subject!r} is no subject")
        if not self._nc.is_connected:
            return UNKNOWN  # nats-py would keep it and send it after the outage
        try:
            await self._nc.publish(message.subject, message.data, reply=reply, headers=dict(message.headers))
        except nats.errors.MaxPayloadError:
            text = f"{len(message.data)} bytes are more than the server's max_payload, {self._nc.max_payload}"
            return Outcome(code=TOO_LARGE, text=text)
        except nats.errors.BadSubjectError:
            return Outcome(code=BAD_SUBJECT, text=f"{message.subject!r} is no subject")
        except nats.errors.Error as error:
            return Outcome(text=str(error))
        return None

    async def _collect(self, part: "Part", timeout_seconds: float) -> list[Outcome]:
        await asyncio.wait(part.waiting.values(), timeout=timeout_seconds)
        for token, future in part.waiting.items():
            self._waiting.pop(token, None)
            if not future.done():
                future.set_result(UNKNOWN)
        outcomes = [future.result() for future in part.waiting.values()]
        self._pace.note(len(outcomes), time.monotonic() - part.sent_at, UNKNOWN in outcomes)
        return outcomes

    async def _resolve(self, message: Msg) -> None:
        future = self._waiting.pop(message.subject.rsplit(".", 1)[1], None)
        if future is not None and not future.done():
            future.set_result(read_ack(message))


def read_ack(message: Msg) -> Outcome:
    """Return what JetStream's answer to a publish says."""
    if not message.data:
        return Outcome(code=NO_RESPONDERS, text="no stream takes this subject now")
    answer: dict[str, Any] = json.loads(message.data)
    if error := answer.get("error"):
        return Outcome(code=error.get("err_code") or error.get("code"), text=error.get("description", ""))
    return Outcome(sequence=answer["seq"], count=answer.get("count", 0))


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
