from uuid import uuid4

import pytest
from django.db import IntegrityError, connection, transaction

from agents.errors import IllegalStatus, UnknownAgent
from agents.models import Agent, AgentStatus, LifecycleEvent
from agents.registry import change_status, register_agent, resume_agent, suspend_agent, terminate_agent
from pg.errors import Refused

pytestmark = pytest.mark.django_db


def events_of(agent: Agent) -> list[tuple[str, str | None, str | None]]:
    rows = LifecycleEvent.objects.filter(agent=agent).order_by("event_id")
    return [(row.event_type, row.previous_status, row.new_status) for row in rows]


def test_registration_writes_the_agent_and_its_event():
    agent = register_agent("reader", "reader-1", configuration={"depth": 2}, metadata={"team": "docs"})
    agent.refresh_from_db()
    assert (agent.status, agent.liveness, agent.epoch) == ("initializing", "unknown", 1)
    assert agent.metadata.keys() == {"created_at", "version", "team"}
    assert events_of(agent) == [("registered", None, "initializing")]


@pytest.mark.parametrize(
    ("agent_type", "agent_name", "message"),
    [
        ("", "x", "agent_type"),
        ("x", "", "agent_name"),
        ("x" * 51, "x", "agent_type"),
        ("x", "y" * 256, "agent_name"),
    ],
)
def test_bad_names_are_refused_and_nothing_is_written(agent_type, agent_name, message):
    with pytest.raises(Refused, match=message):
        register_agent(agent_type, agent_name)
    assert not Agent.objects.exists()


def test_metadata_that_breaks_the_rule_is_refused():
    with pytest.raises(Refused, match="created_at must be an ISO 8601 time"):
        register_agent("reader", "r", metadata={"created_at": "9999-99-99T99:99:99"})


def test_unknown_parent_is_named():
    connection.cursor().execute("SET CONSTRAINTS ALL IMMEDIATE")
    stranger = uuid4()
    with pytest.raises(UnknownAgent, match=str(stranger)):
        register_agent("reader", "r", parent=stranger)


def test_change_of_status_writes_who_and_why():
    agent = register_agent("reader", "r")
    boss = register_agent("planner", "p")
    change_status(agent.pk, AgentStatus.ACTIVE, reason="ready", actor="ada", triggered_by=boss.pk)
    event = LifecycleEvent.objects.filter(agent=agent).latest("event_id")
    assert (event.event_type, event.previous_status, event.new_status) == ("active", "initializing", "active")
    assert (event.event_data, event.triggered_by_id) == ({"reason": "ready", "actor": "ada"}, boss.pk)


def test_who_and_why_do_not_leak_into_the_next_change():
    agent = register_agent("reader", "r")
    change_status(agent.pk, AgentStatus.ACTIVE, reason="ready")
    Agent.objects.filter(pk=agent.pk).update(status=AgentStatus.IDLE)
    assert LifecycleEvent.objects.filter(agent=agent).latest("event_id").event_data == {}


def test_the_same_status_again_changes_nothing():
    agent = register_agent("reader", "r")
    change_status(agent.pk, AgentStatus.ACTIVE)
    change_status(agent.pk, AgentStatus.ACTIVE)
    assert len(events_of(agent)) == 2


def test_terminated_is_final():
    agent = register_agent("reader", "r")
    suspend_agent(agent.pk)
    resume_agent(agent.pk)
    terminate_agent(agent.pk)
    with pytest.raises(IllegalStatus, match="cannot go from terminated to active"):
        resume_agent(agent.pk)
    assert events_of(agent)[-1] == ("terminated", "active", "terminated")


def test_the_database_refuses_an_illegal_move_from_any_client():
    agent = register_agent("reader", "r")
    Agent.objects.filter(pk=agent.pk).update(status="active")
    with pytest.raises(IntegrityError, match="cannot go from active to initializing"), transaction.atomic():
        Agent.objects.filter(pk=agent.pk).update(status="initializing")


def test_unknown_agent_is_named():
    with pytest.raises(UnknownAgent, match="no such agent"):
        suspend_agent(uuid4())
