"""Pulls from a durable consumer in batches: at once what is there, or a few messages within a short time.

nats-py's own fetch drops what arrives after its time-out until the server delivers it again. Here an answer that comes
late is simply part of the next batch.
"""

import asyncio
import contextlib
import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from bridge.changes import Letter
from pg.errors import Unreachable

EXPIRES_SECONDS = 5.0  # how long one request waits on the server
MAX_BYTES = 16 << 20  # of one request: values may have 2 MB each
TURN = 100  # acknowledgements in one go


@dataclass
class Pulled:
    """`pending`: how many messages wait on the server after these, as it said with the last."""

    letters: list[Letter]
    pending: int = 0


class Puller:
    """One consumer's messages. Not for two callers at once. `is_known` tells by its headers of a message that nobody
    has to see: it is acknowledged as it comes, and counted in `passed`."""

    def __init__(
        self,
        nc: Client,
        stream: str,
        consumer: str,
        epoch: int,
        is_known: Callable[[Mapping[str, str]], bool] | None = None,
    ) -> None:
        self._nc, self._stream, self._consumer, self._epoch = nc, stream, consumer, epoch
        self._is_known = is_known
        self.passed = 0
        self._pending = 0  # after what came last
        self._prefix = nc.new_inbox()
        self._numbers = itertools.count(1)
        self._asked: dict[str, tuple[int, float]] = {}  # how many a request may still bring, until when
        self._come: deque[Letter] = deque()
        self._changed = asyncio.Event()
        self._trouble = ""

    async def start(self) -> "Puller":
        self._subscription = await self._nc.subscribe(
            f"{self._prefix}.*", cb=self._take, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        return self

    async def stop(self) -> None:
        """Ask for nothing more; what came and was not returned goes to whoever asks next, at once."""
        if not self._nc.is_closed:
            with contextlib.suppress(nats.errors.Error):  # a lost connection: the consumer's ack_wait does it
                await self._subscription.drain()  # what is on its way still comes
                await put_back(self._nc, self._come, 0)
        self._come.clear()

    async def pull(self, most: int, enough: int, wait_seconds: float, linger_seconds: float) -> Pulled:
        """Return up to `most` messages: as soon as `enough` are there, or `linger_seconds` after the first came, or
        none after `wait_seconds`. Raises Unreachable when the consumer is gone."""
        await self._ask(most)
        deadline = time.monotonic() + wait_seconds
        is_lingering = False
        while len(self._come) < min(enough, most):
            if self._come and not is_lingering:
                is_lingering = True
                deadline = time.monotonic() + linger_seconds
            if not await self._wait_until(deadline):
                break
            if self._trouble:
                raise Unreachable(self._trouble, "run manage.py bridge setup; manage.py doctor says more")
            if not self._open():
                await self._ask(most)
        found = [self._come.popleft() for _ in range(min(most, len(self._come)))]
        pending = pending_after(found) if found else self._pending
        if pending:
            await self._ask(most)  # the next batch comes while this one is worked on
        return Pulled(found, pending)

    async def _wait_until(self, deadline: float) -> bool:
        """Wait for the next message or word of the server; False when the deadline came first."""
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        try:
            await asyncio.wait_for(self._changed.wait(), min(left, 1.0))
        except TimeoutError:
            return time.monotonic() < deadline
        finally:
            self._changed.clear()
        return True

    def _open(self) -> int:
        """Return how many messages the open requests may still bring."""
        now = time.monotonic()
        self._asked = {token: (left, until) for token, (left, until) in self._asked.items() if until > now}
        return sum(left for left, _ in self._asked.values())

    async def _ask(self, most: int) -> None:
        """Ask for what is missing to `most`."""
        missing = most - self._open()
        if missing <= 0 or len(self._come) >= most:
            return
        token = str(next(self._numbers))
        self._asked[token] = (missing, time.monotonic() + EXPIRES_SECONDS + 1)
        limits = {"batch": missing, "max_bytes": MAX_BYTES, "expires": int(EXPIRES_SECONDS * 1e9)}
        request = json.dumps(limits).encode()
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        try:
            await self._nc.publish(subject, request, reply=f"{self._prefix}.{token}")
        except nats.errors.Error as error:
            raise Unreachable(f"{self._stream}: {error}", "is nats-server up?") from error

    async def _take(self, message: Msg) -> None:
        status = (message.headers or {}).get("Status") if not message.reply else None
        if status is None:
            self._count(message)
            if self._is_known and self._is_known(message.headers or {}):
                await self._pass_by(message)
                if self._asked:
                    return  # nobody waits for that
            else:
                self._come.append(to_letter(message, self._epoch))  # while the batch before is worked on
        elif status == "503" or (status == "409" and "Deleted" in message.headers.get("Description", "")):
            self._trouble = f"consumer {self._consumer} of {self._stream} is not there"
        else:
            self._asked.pop(
                message.subject.rsplit(".", 1)[1], None
            )  # this request is over: nothing there, too long, a new leader
        self._changed.set()

    async def _pass_by(self, message: Msg) -> None:
        self.passed += 1
        self._pending = read_reply(message.reply)[3]
        with contextlib.suppress(nats.errors.Error):  # it comes again, and passes again
            await self._nc.publish(message.reply, b"+ACK")

    def _count(self, message: Msg) -> None:
        """Take one off the oldest request: the server fills them in turn, and a message does not name its own."""
        for token, (left, until) in self._asked.items():
            if left > 1:
                self._asked[token] = (left - 1, until)
            else:
                del self._asked[token]
            return


def to_letter(message: Msg, epoch: int) -> Letter:
    """Return a message of a consumer, whose reply subject says where it stands."""
    deliveries, sequence, nanoseconds, _ = read_reply(message.reply)
    stored_at = datetime.fromtimestamp(nanoseconds / 1e9, UTC)
    headers = message.headers or {}
    return Letter(
        message.subject, message.data, headers, sequence, epoch, stored_at, deliveries, message.reply
    )


def pending_after(letters: list[Letter]) -> int:
    return read_reply(letters[-1].reply)[3] if letters else 0


def read_reply(reply: str) -> tuple[int, int, int, int]:
    """Return deliveries, stream sequence, time in nanoseconds and what is pending, from
    `$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<deliveries>.<sequence>.<consumer's own>.<time>.<pending>`."""
    parts = reply.split(".")
    first = 4 if len(parts) == 9 else 6
    return int(parts[first]), int(parts[first + 1]), int(parts[first + 3]), int(parts[first + 4])


async def acknowledge(nc: Client, letters: Iterable[Letter]) -> None:
    """Tell the server that these are done. One that does not arrive costs a repetition."""
    for number, letter in enumerate(letters, 1):
        await nc.publish(letter.reply, b"+ACK")
        if number % TURN == 0:
            await asyncio.sleep(0)  # others on the loop: who pulls the next batch


async def put_back(nc: Client, letters: Iterable[Letter], delay_seconds: float) -> None:
    """Have these delivered again, not before `delay_seconds`."""
    answer = b'-NAK {"delay": %d}' % int(delay_seconds * 1e9) if delay_seconds else b"-NAK"
    for letter in letters:
        await nc.publish(letter.reply, answer)
