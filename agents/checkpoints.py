"""Snapshots of an agent's whole state, and the way back to one (guide 2.2, 9.2)."""

from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from agents.errors import UnknownAgent, UnknownCheckpoint
from agents.models import Agent, AgentState, Checkpoint
from agents.registry import get_agent
from agents.state import delete_state, write_state


def create_checkpoint(
    agent_id: UUID,
    name: str | None = None,
    *,
    trigger_event: str | None = None,
    kv_revision: int | None = None,
) -> Checkpoint:
    """Save the agent's live state as one row; return it.

    The snapshot is `{key: {"value", "version", "kv_revision"}}`, read in one query, so it is one moment. `kv_revision`
    is the bucket's last sequence, None where JetStream was not asked. Raises UnknownAgent.
    """
    get_agent(agent_id)
    return Checkpoint.objects.create(
        agent_id=agent_id,
        checkpoint_name=name,
        trigger_event=trigger_event,
        kv_revision=kv_revision,
        state_snapshot=take_snapshot(agent_id),
    )


def take_snapshot(agent_id: UUID) -> dict[str, dict[str, Any]]:
    now = timezone.now()
    return {
        row.state_key: {"value": row.state_value, "version": row.version, "kv_revision": row.kv_revision}
        for row in AgentState.objects.filter(agent_id=agent_id).order_by("state_key")
        if row.expires_at is None or row.expires_at > now
    }


def roll_back(agent_id: UUID, checkpoint: Checkpoint) -> int:
    """Put the state back to what the checkpoint holds, under a new epoch; return how many keys were set or deleted.

    One transaction: keys that the checkpoint lacks are deleted, and the old incarnation's writes are refused from
    then on (its epoch is stale). The outbox carries the change to JetStream. Running it twice sets the same state.
    Raises UnknownCheckpoint where it belongs to another agent, UnknownAgent.
    """
    if checkpoint.agent_id != agent_id:
        raise UnknownCheckpoint(f"checkpoint {checkpoint.pk} belongs to another agent")
    wanted = {key: entry["value"] for key, entry in checkpoint.state_snapshot.items()}
    with transaction.atomic():
        if not Agent.objects.filter(pk=agent_id).update(epoch=F("epoch") + 1):
            raise UnknownAgent(f"{agent_id}: no such agent", "see `manage.py agents list`")
        present = set(AgentState.objects.filter(agent_id=agent_id).values_list("state_key", flat=True))
        deleted = delete_state(agent_id, sorted(present - wanted.keys()))
        return deleted + len(write_state(agent_id, wanted))


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
