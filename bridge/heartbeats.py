"""Heartbeats of agents on NATS, `agents.heartbeat.<agent_id>`, into the registry's liveness, a batch a second.

They come over core NATS: one that is lost is followed by the next. When an agent was alive is told by PostgreSQL's
clock, never by the agent's. Several bridges share them (a queue group).
"""

import json
import time
from typing import Any
from uuid import UUID

from django.db.backends.base.base import BaseDatabaseWrapper
from nats.aio.msg import Msg

from agents.liveness import record_heartbeats
from bridge.listener import Listener
from bridge.part import Part
from bridge.session import execute

SUBJECT = "agents.heartbeat.*"
GROUP = "mistersmith"
PAUSE_SECONDS = 1.0
STEP_SECONDS = 0.2

# an agent whose successor took over is not alive, whatever its old process says
CURRENT = """
SELECT r.agent_id FROM unnest(%s::uuid[], %s::bigint[]) AS h (agent_id, epoch)
JOIN agents.registry r ON r.agent_id = h.agent_id AND (h.epoch IS NULL OR h.epoch >= r.epoch)
"""


class Heartbeats(Part):
    def __init__(self) -> None:
        super().__init__("heartbeats")
        self.seen: dict[UUID, int | None] = {}
        self.recorded = self.refused = 0
        self._listener = Listener(SUBJECT, self._hear, GROUP)

    def prepare(self, db: BaseDatabaseWrapper) -> None:
        self._listener.begin()

    def end(self) -> None:
        self._listener.end()

    async def _hear(self, message: Msg) -> None:
        beat = read_heartbeat(message.subject, message.data, message.headers or {})
        if beat is None:
            self.refused += 1
        else:
            self.seen[beat[0]] = beat[1]

    def turn(self, db: BaseDatabaseWrapper) -> None:
        """Record who was heard since the last turn. What is not recorded because PostgreSQL is away is forgotten."""
        started = time.monotonic()
        seen, self.seen = self.seen, {}
        if seen:
            self.recorded += record(db, seen)
        self.outage.end()
        while not self.is_stopping and time.monotonic() - started < PAUSE_SECONDS:
            time.sleep(STEP_SECONDS)

    def figures(self) -> dict[str, Any]:
        return {"recorded": self.recorded, "refused": self.refused}


def read_heartbeat(subject: str, data: bytes, headers: dict[str, str]) -> tuple[UUID, int | None] | None:
    """Return the agent and its epoch, where it names one; None for what is no heartbeat.

    A JSON object is wanted: with reply subjects other agents can make the server send bytes under a foreign subject,
    but not bytes of their choice without the mark of the stream that they came from.
    """
    if "Nats-Stream" in headers:
        return None
    try:
        told = json.loads(data or b"{}")
        epoch = told.get("epoch")
        return UUID(subject.rsplit(".", 1)[1]), None if epoch is None else int(epoch)
    except (ValueError, AttributeError, TypeError):
        return None


def record(db: BaseDatabaseWrapper, seen: dict[UUID, int | None]) -> int:
    """Note these agents as alive; return how many are known and not replaced."""
    epochs = [epoch if epoch is None or 0 <= epoch < 1 << 63 else 0 for epoch in seen.values()]
    current = execute(db, CURRENT, [list(seen), epochs])
    return record_heartbeats([agent_id for (agent_id,) in current]) if current else 0
