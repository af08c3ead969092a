"""Register agents and move them through their lifecycle (guide 9.2).

The database keeps the state machine and writes the lifecycle event, in the same transaction as the change; this module
turns its refusals into errors for people.
"""

import json
from typing import Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction

from agents.errors import AgentError, IllegalStatus, UnknownAgent
from agents.models import Agent, AgentStatus
from pg.errors import Refused


def register_agent(
    agent_type: str,
    agent_name: str,
    *,
    capabilities: dict[str, Any] | None = None,
    configuration: dict[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
    parent: UUID | None = None,
    status: AgentStatus = AgentStatus.INITIALIZING,
) -> Agent:
    """Add an agent and its `registered` event; return it. Each call makes a new agent: names are labels, not keys.

    `metadata` is added to what the guide demands (created_at, version). Raises Refused for an empty or too long type
    or name, UnknownAgent where `parent` does not exist.
    """
    agent = Agent(
        agent_type=agent_type,
        agent_name=agent_name,
        capabilities=capabilities or {},
        configuration=configuration or {},
        parent_id=parent,
        status=status,
    )
    agent.metadata |= metadata or {}
    try:
        agent.clean_fields(exclude=["parent", "created_at", "updated_at"])
    except ValidationError as error:
        raise Refused(
            "; ".join(f"{name}: {' '.join(text)}" for name, text in error.message_dict.items())
        ) from error
    try:
        with transaction.atomic():
            agent.save(force_insert=True)
    except IntegrityError as error:
        raise _registration_error(error, parent) from error
    return agent


def _registration_error(error: IntegrityError, parent: UUID | None) -> AgentError | Refused:
    text = str(error)
    if "parent_agent_id" in text:
        return UnknownAgent(f"parent {parent}: no such agent", "see `manage.py agents list`")
    if "valid_metadata" in text:
        return Refused("metadata: created_at must be an ISO 8601 time and version a string or number")
    return Refused(text.splitlines()[0])


def get_agent(agent_id: UUID) -> Agent:
    """Return the agent; raise UnknownAgent. One query."""
    try:
        return Agent.objects.get(pk=agent_id)
    except Agent.DoesNotExist:
        raise UnknownAgent(f"{agent_id}: no such agent", "see `manage.py agents list`") from None


def find_agent(id_or_name: str) -> Agent:
    """Return the agent of this id, or the one of this name that is not terminated.

    For people: names have no index and may repeat. Raises UnknownAgent, Refused where several have the name.
    """
    try:
        return get_agent(UUID(id_or_name))
    except ValueError:
        named = Agent.objects.filter(agent_name=id_or_name).exclude(status=AgentStatus.TERMINATED)
    found = list(named.order_by("-agent_id")[:2])
    if not found:
        raise UnknownAgent(f"{id_or_name}: no agent has this id or name", "see `manage.py agents list`")
    if len(found) > 1:
        raise Refused(f"{id_or_name}: several agents have this name", "name it by its id")
    return found[0]


def change_status(
    agent_id: UUID,
    status: AgentStatus,
    *,
    reason: str = "",
    actor: str = "",
    triggered_by: UUID | None = None,
) -> Agent:
    """Move an agent to `status`; return it. A move to the status that it has changes nothing and writes no event.

    `reason` and `actor` (a user's name) go into the event's data, `triggered_by` is the agent that asked for it.
    Safe to repeat. Raises UnknownAgent, IllegalStatus.
    """
    with transaction.atomic():
        _note_event(reason, actor, triggered_by)
        agent = Agent.objects.select_for_update(no_key=True).filter(pk=agent_id).first()
        if agent is None:
            raise UnknownAgent(f"{agent_id}: no such agent", "see `manage.py agents list`")
        if agent.status == status:
            return agent
        previous, agent.status = agent.status, status
        try:
            with transaction.atomic():
                agent.save(update_fields=["status"])
        except IntegrityError as error:
            if "cannot go from" not in str(error):
                raise
            raise IllegalStatus(
                f"{agent.agent_name} ({agent_id}) cannot go from {previous} to {status}",
                "a terminated agent stays so: register a new one; other moves are in agents.status_transitions",
            ) from error
        finally:
            _note_event("", "", None)
    return agent


def _note_event(reason: str, actor: str, triggered_by: UUID | None) -> None:
    """Tell the lifecycle trigger who and why, for this transaction only."""
    data = {name: value for name, value in (("reason", reason), ("actor", actor)) if value}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('agents.event_data', %s, true), set_config('agents.triggered_by', %s, true)",
            [json.dumps(data) if data else "", str(triggered_by or "")],
        )


def suspend_agent(agent_id: UUID, *, reason: str = "", actor: str = "") -> Agent:
    return change_status(agent_id, AgentStatus.SUSPENDED, reason=reason, actor=actor)


def resume_agent(agent_id: UUID, *, reason: str = "", actor: str = "") -> Agent:
    return change_status(agent_id, AgentStatus.ACTIVE, reason=reason, actor=actor)


def terminate_agent(agent_id: UUID, *, reason: str = "", actor: str = "") -> Agent:
    """Terminate for good: history keeps pointing to the agent, so it is never deleted."""
    return change_status(agent_id, AgentStatus.TERMINATED, reason=reason, actor=actor)
