"""Publishing to JetStream, in atomic batches or pipelined.

nats-py's own publish_async never resolves when the server answers with an error, and has no time-out.
"""

import asyncio
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from bridge import batches
from bridge.keys import is_subject

# Messages are sent in parts, the next one while the one before is answered. A server that syncs each write answers some
# thousands a second, and who writes a single message to the same stream meanwhile waits behind all that are in flight.
LEAST, MOST = 4, 250  # messages in a part
ANSWER_SECONDS = 0.005  # a part shall be answered within

WRONG_LAST_SEQUENCE = 10071
BUSY = 10164  # on a cluster: another write on the same condition is on its way
COLLIDED = (WRONG_LAST_SEQUENCE, BUSY)  # the look was old, or will be; the next one says more
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
            commands = []
            for number, message in enumerate(messages, 1):
                is_last = number == len(messages)
                if refusal := self._find_refusal(message):
                    return refusal
                headers = batches.with_batch(message.headers, batch_id, number, is_last)
                reply = f"{self._prefix}.{token}" if is_last else ""
                commands.append(batches.command(message.subject, reply, headers, message.data))
            if not self._nc.is_connected:
                return UNKNOWN
            await self._write(b"".join(commands))
            outcome = await asyncio.wait_for(future, timeout_seconds)
        except TimeoutError:
            return UNKNOWN
        finally:
            self._waiting.pop(token, None)
        return UNBATCHED if outcome.is_stored and outcome.count != len(messages) else outcome

    async def _write(self, commands: bytes) -> None:
        """Hand commands of the protocol to the connection. nats-py's `publish` would look at each message by itself:
        that takes three times as long as to make its command."""
        await self._nc._send_command(commands)
        queue = self._nc._flush_queue
        if queue is not None and queue.empty():
            await self._nc._flush_pending()

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
        if refusal := self._find_refusal(message):
            return refusal
        if not self._nc.is_connected:
            return UNKNOWN  # nats-py would keep it and send it after the outage
        try:
            await self._nc.publish(message.subject, message.data, reply=reply, headers=dict(message.headers))
        except nats.errors.BadSubjectError:
            return Outcome(code=BAD_SUBJECT, text=f"{message.subject!r} is no subject")
        except nats.errors.Error as error:
            return Outcome(text=str(error))
        return None

    def _find_refusal(self, message: Message) -> Outcome | None:
        """Return why the server that is connected cannot take the message; None: it might."""
        if not is_subject(message.subject):
            return Outcome(code=BAD_SUBJECT, text=f"{message.subject!r} is no subject")
        if len(message.data) > self._nc.max_payload:
            text = f"{len(message.data)} bytes are more than the server's max_payload, {self._nc.max_payload}"
            return Outcome(code=TOO_LARGE, text=text)
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
