"""manage.py agents: register, list, suspend, resume, terminate, heartbeat, state, checkpoint, rollback."""

import getpass
import json
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any
from uuid import UUID

from agents.checkpoints import create_checkpoint, find_checkpoint, roll_back
from agents.liveness import record_heartbeats
from agents.models import Agent, AgentStatus, Liveness
from agents.registry import register_agent, resume_agent, suspend_agent, terminate_agent
from agents.state import read_state, write_state
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
    parser.add_argument("--dry-run", action="store_true", help="print what would be done")


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
    return Answer(items=[{"checkpoint_id": made.pk, "keys": len(made.state_snapshot)}])


def rollback(agent_id: UUID, checkpoint: str | None, dry_run: bool, **_: Any) -> Answer:
    found = find_checkpoint(agent_id, checkpoint)
    why = f"as of {found.created_at:%Y-%m-%d %H:%M:%S} UTC ({len(found.state_snapshot)} keys), under a new epoch"
    steps = [{"action": "restore", "object": f"state of {agent_id}", "why": why}]
    changed = 0 if dry_run else roll_back(agent_id, found)
    return Answer(steps=steps, counts={"keys": changed})
