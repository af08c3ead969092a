import pytest
from django.contrib.auth.models import Permission, User
from django.urls import reverse

from agents.checkpoints import create_checkpoint
from agents.models import AgentStatus
from agents.registry import register_agent
from agents.state import write_state

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    "model",
    ["agent", "agentstate", "checkpoint", "heartbeat", "lifecycleevent", "statehistory", "typesettings"],
)
def test_each_list_opens(admin_client, model):
    agent = register_agent("reader", "r")
    write_state(agent.pk, {"k": 1})
    create_checkpoint(agent.pk)
    assert admin_client.get(reverse(f"admin:agents_{model}_changelist")).status_code == 200


def test_an_agent_page_opens_and_offers_no_deletion(admin_client):
    agent = register_agent("reader", "r")
    page = admin_client.get(reverse("admin:agents_agent_change", args=[agent.pk]))
    assert page.status_code == 200
    assert "deletelink" not in page.content.decode()
    assert admin_client.get(reverse("admin:agents_agent_delete", args=[agent.pk])).status_code == 403


def test_suspending_is_an_action_and_is_logged(admin_client):
    agent = register_agent("reader", "r")
    url = reverse("admin:agents_agent_changelist")
    admin_client.post(url, {"action": "suspend", "_selected_action": [str(agent.pk)]})
    agent.refresh_from_db()
    assert agent.status == AgentStatus.SUSPENDED
    event = agent.lifecycle_events.latest("event_id")
    assert event.event_data == {"reason": "admin", "actor": "admin"}


def test_a_viewer_may_look_but_not_act(client):
    viewer = User.objects.create_user("viewer", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_agent"))
    client.force_login(viewer)
    agent = register_agent("reader", "r")
    url = reverse("admin:agents_agent_changelist")
    assert client.get(url).status_code == 200
    client.post(url, {"action": "suspend", "_selected_action": [str(agent.pk)]})
    agent.refresh_from_db()
    assert agent.status == AgentStatus.INITIALIZING


def test_agents_are_filtered_by_the_types_that_there_are(admin_client):
    for agent_type, name in (("writer", "w"), ("reader", "r-1"), ("reader", "r-2")):
        register_agent(agent_type, name)
    page = admin_client.get("/admin/agents/agent/", {"agent_type": "reader"})
    listed = page.context["cl"]
    assert {agent.agent_name for agent in listed.result_list} == {"r-1", "r-2"}
    (kinds,) = (spec for spec in listed.filter_specs if spec.title == "type")
    assert [name for name, _ in kinds.lookup_choices] == ["reader", "writer"]
    assert admin_client.get("/admin/agents/agent/", {"agent_type": "nobody"}).context["cl"].result_count == 0
