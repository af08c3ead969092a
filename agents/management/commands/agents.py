"""manage.py agents: register, list, suspend, resume, terminate, heartbeat, state, checkpoint, rollback."""

import getpass
import json
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any
from uuid import UUID

from agents.checkpoints import create_checkpoint, find_checkpoint
from agents.liveness import record_heartbeats
from agents.models import Agent, AgentStatus, Checkpoint, Liveness
from agents.registry import register_agent, resume_agent, suspend_agent, terminate_agent
from agents.rollback import UNDO, describe, find_undo, plan_roll_back, roll_back
from agents.state import read_state, write_state
from operators.audit import Actor
from operators.command import Answer, OperatorCommand


def json_object(text: str) -> dict[str, Any]:
    """Read a JSON object from the command line."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ArgumentTypeError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ArgumentTypeError('must be a JSON object, for instance {"region": "eu"}')
    return value


class Command(OperatorCommand):
    help = "Register agents, steer them through their lifecycle, look at and restore their state."

    def add_verbs(self) -> None:
        parser = self.add_verb("register", register, "add an agent")
        parser.add_argument("agent_type")
        parser.add_argument("agent_name")
        parser.add_argument("--configuration", type=json_object, default={}, help="JSON object")
        parser.add_argument("--capabilities", type=json_object, default={}, help="JSON object")
        parser.add_argument("--parent", type=UUID)
        parser = self.add_verb("list", list_agents, "show agents, newest first")
        parser.add_argument("--type", dest="agent_type")
        parser.add_argument("--status", choices=AgentStatus.values)
        parser.add_argument("--liveness", choices=Liveness.values)
        parser.add_argument(
            "--can", type=json_object, metavar="JSON", help="capabilities that hold this object"
        )
        parser.add_argument("--limit", type=int, default=100)
        for name, move in (
            ("suspend", suspend_agent),
            ("resume", resume_agent),
            ("terminate", terminate_agent),
        ):
            parser = self.add_verb(name, moving(move), f"{name} agents")
            parser.add_argument("agent_ids", nargs="+", type=UUID, metavar="agent_id")
            parser.add_argument("--reason", default="")
        parser = self.add_verb("heartbeat", heartbeat, "note that agents are alive")
        parser.add_argument("agent_ids", nargs="+", type=UUID, metavar="agent_id")
        parser = self.add_verb("state", state, "show an agent's state, or set keys of it")
        parser.add_argument("agent_id", type=UUID)
        parser.add_argument("--set", type=json_object, dest="values", help="JSON object of keys and values")
        add_checkpoint_verbs(self)


def add_checkpoint_verbs(command: OperatorCommand) -> None:
    parser: ArgumentParser = command.add_verb("checkpoint", checkpoint, "save an agent's state")
    parser.add_argument("agent_id", type=UUID)
    parser.add_argument("--name")
    parser = command.add_verb(
        "rollback", rollback, "put an agent's state back to a checkpoint, under a new epoch"
    )
    parser.add_argument("agent_id", type=UUID)
    parser.add_argument("--checkpoint", help="id or name; the newest without it")
    parser.add_argument("--undo", action="store_true", help="back to what the last roll-back replaced")
    parser.add_argument(
        "--force", action="store_true", help="also when the agent's last writes are not in PostgreSQL"
    )
    parser.add_argument("--reason", default="", help="why; kept in the audit")
    parser.add_argument("--dry-run", action="store_true", help="print what would change")


def row_of(agent: Agent) -> dict[str, Any]:
    return {
        "agent_id": agent.agent_id,
        "agent_type": agent.agent_type,
        "agent_name": agent.agent_name,
        "status": str(agent.status),
        "liveness": str(agent.liveness),
        "last_heartbeat": agent.last_heartbeat,
        "epoch": agent.epoch,
    }


def register(
    agent_type: str, agent_name: str, configuration: Any, capabilities: Any, parent: UUID | None, **_: Any
) -> Answer:
    agent = register_agent(
        agent_type, agent_name, configuration=configuration, capabilities=capabilities, parent=parent
    )
    return Answer(items=[row_of(agent)])


def list_agents(
    agent_type: str | None,
    status: str | None,
    liveness: str | None,
    can: dict[str, Any] | None,
    limit: int,
    **_: Any,
) -> Answer:
    wanted = {
        "agent_type": agent_type,
        "status": status,
        "liveness": liveness,
        "capabilities__contains": can,
    }
    rows = Agent.objects.filter(**{name: value for name, value in wanted.items() if value is not None})
    items = [row_of(agent) for agent in rows.order_by("-agent_id")[:limit]]
    return Answer(items=items, counts={"shown": len(items)})


def moving(move: Any) -> Any:
    """Return the verb that applies `move` to each agent named."""

    def run(agent_ids: list[UUID], reason: str, **_: Any) -> Answer:
        return Answer(
            items=[row_of(move(agent_id, reason=reason, actor=getpass.getuser())) for agent_id in agent_ids]
        )

    return run


def heartbeat(agent_ids: list[UUID], **_: Any) -> Answer:
    known = record_heartbeats(agent_ids)
    warnings = [f"{len(agent_ids) - known} unknown or terminated"] if known < len(agent_ids) else []
    return Answer(counts={"recorded": known}, warnings=warnings, ok=not warnings)


def state(agent_id: UUID, values: dict[str, Any] | None, **_: Any) -> Answer:
    if values:
        write_state(agent_id, values)
    return Answer(items=[{"key": key, "value": value} for key, value in sorted(read_state(agent_id).items())])


def checkpoint(agent_id: UUID, name: str | None, **_: Any) -> Answer:
    made = create_checkpoint(agent_id, name, trigger_event="operator")
    item = {"checkpoint_id": made.pk, "keys": len(made.state_snapshot), "kv_revision": made.kv_revision}
    warnings = [] if made.kv_revision is not None else ["not sure that it has the agent's last writes to KV"]
    return Answer(items=[item], warnings=warnings)


def rollback(
    agent_id: UUID, checkpoint: str | None, undo: bool, force: bool, reason: str, dry_run: bool, **_: Any
) -> Answer:
    """Plan, print, roll back. The checkpoint that undoes it is in the answer."""
    found = find_undo(agent_id) if undo else find_target(agent_id, checkpoint)
    steps = describe(plan_roll_back(agent_id, found))
    if dry_run:
        return Answer(steps=steps, counts={"keys": len(steps)})
    done = roll_back(agent_id, found, by=Actor.of_command(), reason=reason, force=force)
    item = {"checkpoint_id": found.pk, "undo_checkpoint_id": done.undo.pk, "epoch": done.epoch}
    return Answer(steps=steps, items=[item], counts={"keys": done.changed}, warnings=list(done.warnings))


def find_target(agent_id: UUID, checkpoint: str | None) -> Checkpoint:
    """Return the checkpoint named; the newest that somebody made, not a roll-back, for None."""
    if checkpoint is not None:
        return find_checkpoint(agent_id, checkpoint)
    made = Checkpoint.objects.filter(agent_id=agent_id).exclude(trigger_event=UNDO).order_by("-created_at")
    return made.first() or find_checkpoint(agent_id)
