"""Waiting until PostgreSQL has what an agent wrote to KV: before a checkpoint, a roll-back, and the end of an agent."""

import logging
import time
from typing import Any
from uuid import UUID

from django.db import connection as db

from agents.checkpoints import Settled
from agents.signals import state_is_needed
from bridge import fastpath
from bridge.connection import Client, call
from bridge.keys import agent_state_key, fence_key
from bridge.session import execute
from bridge.sources import read_buried
from bridge.state import breaker
from bridge.state_kv import AgentKeys
from pg.errors import Unreachable

log = logging.getLogger(__name__)

POLL_SECONDS = 0.02
CALL_SECONDS = 2
FLUSH_SECONDS = 5  # 25 times what the flusher needs


def connect_signals() -> None:
    """Answer the agents room. A second call changes nothing."""
    state_is_needed.connect(settle_agent, dispatch_uid="bridge.settle")


def settle_agent(agent_id: UUID, **options: Any) -> Settled:
    """Bring a raised epoch to KV at once, where it is committed, and wait for the agent's writes."""
    if breaker.is_open():
        return Settled()
    if not db.in_atomic_block:
        try:
            fastpath.push(db.alias, [("AGENT_STATE", fence_key(agent_id))])
        except Unreachable as error:
            log.warning("the epoch of %s is left to the relay: %s", agent_id, error)
    settled = wait_until_flushed(agent_id, FLUSH_SECONDS)
    if settled.kv_revision is None:
        breaker.trip()
    return settled


def wait_until_flushed(agent_id: UUID, timeout_seconds: float) -> Settled:
    """Wait until the agent's writes so far are in PostgreSQL, at most so long. What it writes meanwhile does not count.
    Works inside a transaction that sees what others commit (read committed)."""
    keys = AgentKeys(agent_id)

    async def look(client: Client) -> tuple[int, dict[str, int], int]:
        last = await keys.last_sequence(client)
        entries = await keys.read_all(client)
        epoch = (await keys.info(client)).epoch
        return last, {key: e.revision for key, e in entries.items() if e.is_foreign}, epoch

    try:
        last, revisions, epoch = call(look, CALL_SECONDS)
    except Unreachable:
        return Settled()
    deadline = time.monotonic() + timeout_seconds
    while behind := find_behind(agent_id, revisions, epoch):
        if time.monotonic() > deadline:
            return Settled(last, tuple(behind))
        time.sleep(POLL_SECONDS)
    return Settled(last)


def find_behind(agent_id: UUID, revisions: dict[str, int], epoch: int) -> list[str]:
    """Return the keys whose revision of this epoch PostgreSQL has not seen: in no row, and not as a deleted one."""
    if not revisions:
        return []
    seen = dict(
        execute(
            db,
            "SELECT state_key, kv_revision FROM agents.state"
            " WHERE agent_id = %s AND state_key = ANY(%s) AND kv_epoch = %s",
            [agent_id, list(revisions), epoch],
        )
    )
    names = {key: agent_state_key(agent_id, key) for key in revisions}
    buried = read_buried(db, "AGENT_STATE", list(names.values()))
    return sorted(
        key
        for key, revision in revisions.items()
        if max(seen.get(key, 0), buried.get(names[key], 0)) < revision
    )
