"""What the admin writes goes to KV like any other write, and an edit of an agent's state replaces nothing unseen."""

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from agents.models import AgentState
from agents.state import write_state
from bridge.relay import Memory, relay_batch
from tests.bridge.conftest import empty_outbox, outbox, rows, value
from tests.bridge.flushing import flush, state, write

pytestmark = pytest.mark.usefixtures("committed", "jetstream")


@pytest.fixture
def operator(committed):
    user = User.objects.create_superuser("operator")
    client = Client()
    client.force_login(user)
    yield client
    rows("DELETE FROM django_admin_log")
    user.delete()


@pytest.fixture
def key(agent, session):
    """A key that both stores have."""
    write_state(agent.pk, {"mood": "calm"})
    relay(session)
    return AgentState.objects.get(state_key="mood")


def relay(session):
    while relay_batch(session, Memory()).read:
        pass


def post(operator, page, **fields):
    return operator.post(page, fields)


def change_page(key):
    return reverse("admin:agents_agentstate_change", args=[key.pk])


def fill_in(operator, page, **typed):
    """What the form of a page holds after an operator has typed into it."""
    form = operator.get(page).context["adminform"].form
    shown = {name: form[name].value() for name in form.fields}
    return {name: "" if value is None else value for name, value in (shown | typed).items()}


def test_adding_editing_and_deleting_in_the_admin_send(operator, agent):
    fields = {"agent": str(agent.pk), "state_key": "mood", "state_value": '"calm"'}
    assert post(operator, reverse("admin:agents_agentstate_add"), **fields).status_code == 302
    key = AgentState.objects.get()
    assert (
        post(
            operator, change_page(key), **fill_in(operator, change_page(key), state_value='"wild"')
        ).status_code
        == 302
    )
    delete = reverse("admin:agents_agentstate_delete", args=[key.pk])
    assert post(operator, delete, post="yes").status_code == 302
    sent = [(op, payload) for target, _, op, payload in outbox() if target == "AGENT_STATE" and op != "E"]
    assert sent == [("U", "calm"), ("U", "wild"), ("D", None)]


def test_editing_an_agent_in_the_admin_sends_its_configuration(operator, agent):
    page = reverse("admin:agents_agent_change", args=[agent.pk])
    fields = fill_in(operator, page, configuration='{"depth": 3}')
    assert post(operator, page, **fields).status_code == 302
    *_, (name, payload) = [(name, sent) for target, name, _, sent in outbox() if target == "AGENT_CONFIG"]
    assert (name, payload["configuration"]) == (str(agent.pk), {"depth": 3})


def test_deleting_many_in_the_admin_sends_each(operator, agent):
    write_state(agent.pk, {"a": 1, "b": 2})
    empty_outbox()
    chosen = [str(pk) for pk in AgentState.objects.values_list("pk", flat=True)]
    fields = {"action": "delete_selected", "_selected_action": chosen, "post": "yes"}
    assert post(operator, reverse("admin:agents_agentstate_changelist"), **fields).status_code == 302
    assert sorted(outbox()) == sorted(("AGENT_STATE", f"{agent.pk}.{key}", "D", None) for key in "ab")


def test_an_edit_of_a_value_that_moved_since_the_page_was_opened_is_refused(operator, agent, session, key):
    fields = fill_in(operator, change_page(key), state_value='"wild"')
    write("AGENT_STATE", f"{agent.pk}.mood", "busy")
    flush(session)
    answer = post(operator, change_page(key), **fields)
    assert answer.status_code == 200
    assert "it is &quot;busy&quot; now" in answer.content.decode()
    assert (state(agent), outbox()) == ({"mood": "busy"}, [])
    assert (
        post(
            operator, change_page(key), **fill_in(operator, change_page(key), state_value='"wild"')
        ).status_code
        == 302
    )
    assert state(agent) == {"mood": "wild"}


def test_an_edit_yields_to_what_the_agent_wrote_and_nobody_had_seen(operator, agent, session, key):
    """The page was opened, and saved, before the agent's write was flushed."""
    fields = fill_in(operator, change_page(key), state_value='"wild"')
    write("AGENT_STATE", f"{agent.pk}.mood", "busy")
    assert post(operator, change_page(key), **fields).status_code == 302
    assert state(agent) == {"mood": "wild"}
    relay(session)
    assert value("AGENT_STATE", f"{agent.pk}.mood") == "busy"
    flush(session)
    assert state(agent) == {"mood": "busy"}
    assert rows("SELECT winner, pg_value::text FROM bridge.conflict") == [("agent", '"wild"')]
    assert outbox() == []
