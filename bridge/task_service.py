"""The task engine for agents outside Celery: request and reply on `smith.v1.agent.<agent_id>.tasks.<call>`.

The agent shows its session's token with each request; nothing is claimed for an agent whose token does not match the
subject. A claim may wait for work: those that do are looked at when a commit wakes the bridge, and some times a second.
Several bridges share the requests (a queue group).
"""

import json
import logging
import queue
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import DatabaseError, InterfaceError, OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper
from nats.aio.msg import Msg

from bridge import connection
from bridge.connection import Client
from bridge.delivery import WAKE_SUBJECT
from bridge.listener import Listener
from bridge.part import Part
from bridge.task_calls import CALLS, Caller, Forbidden, caller_of, claim_tasks, describe, number
from pg.errors import MisterSmithError, Refused, Unreachable
from sessions.lifecycle import authenticate, touch
from tasks.claim import Claimed, Failure, fail, give_back, lease_seconds
from tasks.held import ready_among

log = logging.getLogger(__name__)
SUBJECT = "smith.v1.agent.*.tasks.*"
GROUP = "mistersmith"
TOKEN = "Session-Token"  # noqa: S105  (a header's name)
REPLIES = (
    "_INBOX",
    "_R_",
)  # of clients, and of requests from another account: never a subject that means something
BACKLOG = 1_000
STALE_SECONDS = 4.0  # who asked for longer ago has gone: nothing is leased to nobody
MOST_WAIT_SECONDS = 30
LOOK_SECONDS = 0.25
ROOM_BYTES = 4_096  # of an answer, beside its tasks
HINT = "see docs/tasks.md, Agents on NATS"


class Unauthenticated(MisterSmithError):
    """No token, or not one of this agent's."""


class Busy(MisterSmithError):
    """Not now."""

    retry = True


CODES = {Unauthenticated: "unauthenticated", Forbidden: "forbidden", Refused: "refused", Busy: "busy"}


@dataclass
class Request:
    message: Msg
    came_at: float  # of the monotonic clock
    waits_until: float = 0.0
    task_type: str = ""  # of a claim that waits

    @property
    def call(self) -> str:
        return str(self.message.subject).rsplit(".", 1)[1]


class TaskService(Part):
    def __init__(self) -> None:
        super().__init__("task service")
        self.inbox: queue.Queue[Request | None] = queue.Queue(BACKLOG)
        self.waiting: list[Request] = []
        self.next_look = 0.0
        self.is_woken = False
        self.served = self.refused = 0
        self._listeners = [Listener(SUBJECT, self._hear, GROUP), Listener(WAKE_SUBJECT, self._wake)]

    def figures(self) -> dict[str, Any]:
        return {"served": self.served, "refused": self.refused, "waiting": len(self.waiting)}

    # -- on the loop ------------------------------------------------------------------------------------------
    def prepare(self, db: BaseDatabaseWrapper) -> None:
        for listener in self._listeners:
            listener.begin()

    def end(self) -> None:
        """Nobody is left without an answer: whoever waits asks again, and another bridge serves."""
        for listener in self._listeners:
            listener.end()
        left, self.waiting = self.waiting, []
        with suppress(queue.Empty):
            while True:
                request = self.inbox.get_nowait()
                left += [request] if request else []
        with suppress(Unreachable):
            for request in left:
                self.answer(request, told(Busy("this bridge stops", "ask again")))

    async def _hear(self, message: Msg) -> None:
        if not message.reply.startswith(REPLIES):
            self.refused += 1  # an answer there would be somebody's message, not an answer
            return
        try:
            self.inbox.put_nowait(Request(message, time.monotonic()))
        except queue.Full:
            self.refused += 1
            await message.respond(encode(told(Busy("too many requests wait", "try again in a second"))))

    async def _wake(self, message: Msg) -> None:
        if self.waiting and not self.is_woken and self.inbox.empty():
            self.is_woken = True
            self.inbox.put_nowait(None)

    # -- in the part's thread ---------------------------------------------------------------------------------
    def turn(self, db: BaseDatabaseWrapper) -> None:
        """Serve a request, or wait a moment for one; look whether there is work for claims that wait."""
        try:
            request = self.inbox.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            request = None
        if request is not None:
            self.serve(request)
        if self.is_woken or time.monotonic() >= self.next_look:
            self.look_again()
        self.outage.end()

    def look_again(self) -> None:
        self.is_woken, self.next_look = False, time.monotonic() + LOOK_SECONDS
        left, self.waiting = self.waiting, []
        try:
            ready = ready_among(request.task_type for request in left) if left else set()
            while left:
                request = left.pop(0)
                if request.task_type in ready or time.monotonic() >= request.waits_until:
                    self.serve(request)
                else:
                    self.waiting.append(request)
        finally:  # an outage leaves nobody forgotten
            self.waiting += left

    def serve(self, request: Request) -> None:
        """Answer a request; a claim that finds nothing and may wait is kept for later."""
        try:
            caller, asked = read(request)
            if request.call == "claim":
                self.serve_claim(request, caller, asked)
            elif request.call in CALLS:
                self.answer(request, {"ok": True, **CALLS[request.call](caller, asked)})
            else:
                known = ", ".join(sorted([*CALLS, "claim"]))
                raise Refused(f"{request.call}: no such call", f"there are {known}")
        except (OperationalError, InterfaceError):
            self.answer(request, told(Busy("PostgreSQL does not answer", "try again in a second")))
            raise
        except Unreachable:
            raise
        except MisterSmithError as error:
            self.answer(request, told(error))
        except DatabaseError as error:
            self.answer(request, told(Refused(str(error).splitlines()[0])))
        except Exception:  # no request may end the service for the others
            log.exception("%s", request.message.subject)
            self.answer(
                request, told(MisterSmithError("this request could not be served; the bridge's log says why"))
            )

    def serve_claim(self, request: Request, caller: Caller, asked: dict[str, Any]) -> None:
        now = time.monotonic()
        if not request.waits_until:
            wait_seconds = number(asked, "wait_seconds", 0, 0, MOST_WAIT_SECONDS)
            if now - request.came_at > STALE_SECONDS:
                raise Busy("this claim came too long ago", "try again")
            request.waits_until = request.came_at + wait_seconds
        claimed = claim_tasks(caller, asked)
        if not claimed and now < request.waits_until:
            request.task_type = asked["task_type"]
            self.waiting.append(request)
            return
        fitting = self.fit(claimed)
        tasks = [describe(item) for item in fitting]
        try:
            self.answer(request, {"ok": True, "tasks": tasks, "lease_seconds": lease_seconds()})
        except Unreachable:
            give_back(fitting)
            raise

    def fit(self, claimed: list[Claimed]) -> list[Claimed]:
        """Return what one answer can hold, and give back the rest; what none can hold fails for good."""
        room = connection.call(payload_limit) - ROOM_BYTES
        sizes = [len(encode(describe(item))) + 1 for item in claimed]
        for item, size in zip(claimed, sizes, strict=True):
            if size > room:
                fail(
                    item, Failure(f"{size} bytes: too large for an agent on NATS ({room})", is_permanent=True)
                )
        small = [(item, size) for item, size in zip(claimed, sizes, strict=True) if size <= room]
        number_fitting = 0
        for _, size in small:
            room -= size
            number_fitting += room >= 0
        give_back([item for item, _ in small[number_fitting:]])
        return [item for item, _ in small[:number_fitting]]

    def answer(self, request: Request, answer: dict[str, Any]) -> None:
        data = encode(answer)
        if len(data) > connection.call(payload_limit):
            answer = told(Refused(f"the answer has {len(data)} bytes, too many for NATS", HINT))
            data = encode(answer)
        connection.call(lambda client: client.nc.publish(request.message.reply, data))
        if answer["ok"]:
            self.served += 1
        else:
            self.refused += 1


async def payload_limit(client: Client) -> int:
    return int(client.nc.max_payload)


def read(request: Request) -> tuple[Caller, dict[str, Any]]:
    """Return who asks, and what. Raises Unauthenticated, Forbidden, Refused."""
    headers = request.message.headers or {}
    session = authenticate(headers.get(TOKEN, ""))
    agent_id = request.message.subject.split(".")[3]
    if session is None or session.agent is None or str(session.agent.pk) != agent_id:
        raise Unauthenticated(
            f"the header {TOKEN} must be the token of an open session of agent {agent_id}", HINT
        )
    touch(session)
    try:
        asked = json.loads(request.message.data or b"{}")
    except (ValueError, RecursionError) as error:
        raise Refused(f"not JSON: {error}", HINT) from error
    if not isinstance(asked, dict):
        raise Refused("a JSON object is wanted", HINT)
    return caller_of(session.agent, session.permissions), asked


def told(error: MisterSmithError) -> dict[str, Any]:
    """Return an error as agents get it: `retry` says whether the same request may go through later."""
    code = next((name for kind, name in CODES.items() if isinstance(error, kind)), "failed")
    body = {"code": code, "message": str(error), "hint": error.hint, "retry": error.retry}
    return {"ok": False, "error": body}


def encode(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def subject_of(agent_id: UUID, call: str) -> str:
    return f"smith.v1.agent.{agent_id}.tasks.{call}"
