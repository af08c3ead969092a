"""Snapshots of an agent's whole state (guide 2.2, 9.2); `agents/rollback.py` has the way back to one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.utils import timezone

from agents.errors import UnknownCheckpoint
from agents.models import AgentState, Checkpoint
from agents.registry import get_agent
from agents.signals import state_is_needed


@dataclass(frozen=True)
class Settled:
    """How far PostgreSQL has what the agent wrote to KV. `kv_revision`: everything up to it; None: nobody knows, NATS
    was away or not asked. `behind`: keys whose newest write is not there yet."""

    kv_revision: int | None = None
    behind: tuple[str, ...] = ()

    def warnings(self) -> Iterator[str]:
        if self.kv_revision is None:
            yield "JetStream did not answer: what the agent wrote last may be missing"
        if self.behind:
            yield f"{len(self.behind)} keys whose newest write was not in PostgreSQL yet: {', '.join(self.behind[:5])}"


def settle(agent_id: UUID) -> Settled:
    """Have PostgreSQL brought up to date with what the agent wrote; return how far that went."""
    answers: list[Any] = [answer for _, answer in state_is_needed.send(None, agent_id=agent_id)]
    return next((answer for answer in answers if isinstance(answer, Settled)), Settled())


def create_checkpoint(
    agent_id: UUID,
    name: str | None = None,
    *,
    trigger_event: str | None = None,
    settled: Settled | None = None,
) -> Checkpoint:
    """Save the agent's live state as one row; return it.

    What the agent wrote to KV is awaited first (`settled` None), a few seconds at most. The snapshot is `{key:
    {"value", "version", "kv_revision"}}`, with "expires_at" where there is one, read in one query: one moment. Its
    `kv_revision` is the bucket's last sequence that is in it, None where that is not sure. Raises UnknownAgent.
    """
    get_agent(agent_id)
    settled = settle(agent_id) if settled is None else settled
    return Checkpoint.objects.create(
        agent_id=agent_id,
        checkpoint_name=name,
        trigger_event=trigger_event,
        kv_revision=None if settled.behind else settled.kv_revision,
        state_snapshot=take_snapshot(agent_id),
    )


def take_snapshot(agent_id: UUID) -> dict[str, dict[str, Any]]:
    now = timezone.now()
    return {
        row.state_key: entry_of(row)
        for row in AgentState.objects.filter(agent_id=agent_id).order_by("state_key")
        if row.expires_at is None or row.expires_at > now
    }


def entry_of(row: AgentState) -> dict[str, Any]:
    entry = {"value": row.state_value, "version": row.version, "kv_revision": row.kv_revision}
    return entry if row.expires_at is None else {**entry, "expires_at": row.expires_at.isoformat()}


def find_checkpoint(agent_id: UUID, name_or_id: str | None = None) -> Checkpoint:
    """Return the checkpoint with this id or (newest) name; the newest of all for None. Raises UnknownCheckpoint."""
    rows = Checkpoint.objects.filter(agent_id=agent_id).order_by("-created_at")
    if name_or_id is not None:
        rows = (
            rows.filter(pk=UUID(name_or_id))
            if is_uuid(name_or_id)
            else rows.filter(checkpoint_name=name_or_id)
        )
    found = rows.first()
    if found is None:
        raise UnknownCheckpoint(
            f"agent {agent_id} has no checkpoint {name_or_id or ''}".rstrip(),
            "make one with `manage.py agents checkpoint <agent>`",
        )
    return found


def is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
