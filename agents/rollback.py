"""The way back to a checkpoint: a plan, the doing, and the way back from there (guide 9.2)."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from agents.checkpoints import create_checkpoint, settle
from agents.errors import UnknownAgent, UnknownCheckpoint
from agents.models import Agent, AgentState, Checkpoint
from agents.state import canonical, delete_state, write_state
from operators.audit import Actor, record
from pg.errors import Refused

UNDO = "before_rollback"  # trigger_event of the checkpoints that a roll-back makes of what it is about to replace


@dataclass(frozen=True)
class Difference:
    """One key that a roll-back changes. `action`: set, add or delete; `before` and `after` are values, None where there
    is none."""

    key: str
    action: str
    before: Any
    after: Any


@dataclass(frozen=True)
class RolledBack:
    """`undo` holds what was there before: rolling back to it undoes this. `warnings`: what may not be in step."""

    changed: int
    undo: Checkpoint
    epoch: int
    warnings: tuple[str, ...] = ()


def plan_roll_back(agent_id: UUID, checkpoint: Checkpoint) -> list[Difference]:
    """Return what `roll_back` would change now, by key. Raises UnknownCheckpoint where it is another agent's."""
    wanted = read_snapshot(agent_id, checkpoint)
    present = {
        row.state_key: (row.state_value, row.expires_at)
        for row in AgentState.objects.filter(agent_id=agent_id)
    }
    found = []
    for key in sorted(wanted.keys() | present.keys()):
        before, after = present.get(key), wanted.get(key)
        if after is None and before is not None:
            found.append(Difference(key, "delete", before[0], None))
        elif before is None and after is not None:
            found.append(Difference(key, "add", None, after[0]))
        elif before and after and (canonical(before[0]), before[1]) != (canonical(after[0]), after[1]):
            found.append(Difference(key, "set", before[0], after[0]))
    return found


def roll_back(
    agent_id: UUID, checkpoint: Checkpoint, *, by: Actor, reason: str = "", force: bool = False
) -> RolledBack:
    """Put the state back to what the checkpoint holds, in both stores, under a new epoch.

    First what the agent wrote is awaited; then the epoch is raised: the old incarnation's writes are refused from then
    on, in PostgreSQL and in KV (one that came in between is kept as a conflict). What is there is saved as a checkpoint
    to undo this, and replaced, in one transaction that the outbox carries to KV. Stopped anywhere, the state is whole,
    that of before or that of after. Running it twice sets the same state.

    Raises Refused where writes of the agent do not reach PostgreSQL (`force`: go on, they are lost or come later),
    UnknownCheckpoint where it belongs to another agent, UnknownAgent.
    """
    wanted = read_snapshot(agent_id, checkpoint)
    settled = settle(agent_id)
    if settled.behind and not force:
        raise Refused(
            f"{len(settled.behind)} keys that the agent wrote are not in PostgreSQL yet ({settled.behind[0]}, ...)",
            "does manage.py bridge run work? look at bridge status; --force goes on without them",
        )
    epoch = raise_epoch(agent_id)
    settled = settle(agent_id)
    with transaction.atomic():
        undo = create_checkpoint(agent_id, trigger_event=UNDO, settled=settled)
        changed = replace_state(agent_id, wanted)
        details = {"checkpoint": str(checkpoint.pk), "undo": str(undo.pk), "keys": changed, "epoch": epoch}
        record(by, "agents.roll_back", [agent_id], reason=reason, details=details)
    return RolledBack(changed, undo, epoch, tuple(settled.warnings()))


def raise_epoch(agent_id: UUID) -> int:
    """Shut the running incarnation out; return the new epoch. Raises UnknownAgent."""
    with transaction.atomic():
        if not Agent.objects.filter(pk=agent_id).update(epoch=F("epoch") + 1):
            raise UnknownAgent(f"{agent_id}: no such agent", "see `manage.py agents list`")
        return Agent.objects.values_list("epoch", flat=True).get(pk=agent_id)


def replace_state(agent_id: UUID, wanted: dict[str, tuple[Any, datetime | None]]) -> int:
    """Write the wanted keys and delete the others; return how many differed."""
    present = AgentState.objects.filter(agent_id=agent_id).values_list("state_key", "version")
    before = dict(present)
    deleted = delete_state(agent_id, sorted(before.keys() - wanted.keys()))
    rows = [
        write_state(agent_id, {key: value}, expires_at=expires_at)[0]
        for key, (value, expires_at) in sorted(wanted.items())
    ]
    return deleted + sum(before.get(row.state_key) != row.version for row in rows)


def read_snapshot(agent_id: UUID, checkpoint: Checkpoint) -> dict[str, tuple[Any, datetime | None]]:
    """Return value and end by key; what has expired since is left out."""
    if checkpoint.agent_id != agent_id:
        raise UnknownCheckpoint(f"checkpoint {checkpoint.pk} belongs to another agent")
    now = timezone.now()
    ends = {key: read_end(entry.get("expires_at")) for key, entry in checkpoint.state_snapshot.items()}
    return {
        key: (entry["value"], ends[key])
        for key, entry in checkpoint.state_snapshot.items()
        if (end := ends[key]) is None or end > now
    }


def read_end(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def find_undo(agent_id: UUID) -> Checkpoint:
    """Return what the last roll-back replaced. Raises UnknownCheckpoint."""
    found = Checkpoint.objects.filter(agent_id=agent_id, trigger_event=UNDO).order_by("-created_at").first()
    if found is None:
        raise UnknownCheckpoint(f"agent {agent_id} was never rolled back", "see its checkpoints in the admin")
    return found


def describe(differences: Iterable[Difference]) -> list[dict[str, str]]:
    """Return the plan as a command prints it."""
    return [
        {"action": each.action, "object": each.key, "why": f"{show(each.before)} becomes {show(each.after)}"}
        for each in differences
    ]


def show(value: Any, length: int = 60) -> str:
    text = "nothing" if value is None else canonical(value)
    return text if len(text) <= length else f"{text[:length]}..."
