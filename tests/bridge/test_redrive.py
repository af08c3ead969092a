"""What was set apart is sent through again, or dropped, by somebody who says why."""

import json
from io import StringIO

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from agents.models import Agent, AgentState
from bridge import setup
from bridge.models import Conflict, DeadLetter, QuarantinedRow
from bridge.redrive import drop_letters, redrive_letters, redrive_rows
from bridge.sources import note_epochs
from operators.audit import Actor
from operators.models import AuditEntry
from tests.bridge.conftest import empty_outbox, outbox, rows
from tests.bridge.flushing import flush, state, write

pytestmark = pytest.mark.usefixtures("committed", "jetstream")
BY = Actor("ada", "admin")


@pytest.fixture(autouse=True)
def quiet(agent, session, monkeypatch):
    monkeypatch.setattr("bridge.fastpath.push", lambda *_: 0)
    note_epochs(session, setup.read_found().created)
    empty_outbox()


@pytest.fixture
def homeless(session):
    """A write of an agent that is not registered yet."""
    agent = Agent(agent_type="reader", agent_name="late")
    write("AGENT_STATE", f"{agent.pk}.a", {"x": 1})
    assert flush(session).dead == 1
    return agent


def test_a_letter_whose_trouble_is_over_is_applied_and_forgotten(homeless):
    homeless.save()
    done = redrive_letters([DeadLetter.objects.get().pk], by=BY, reason="registered late")
    assert (done.done, done.left) == (1, 0)
    assert state(homeless) == {"a": {"x": 1}}
    assert not DeadLetter.objects.exists()
    entry = AuditEntry.objects.filter(action="bridge.redrive_letters").latest("pk")
    assert (entry.actor, entry.reason) == ("ada", "registered late")


def test_a_letter_that_fails_again_stays_and_is_counted(homeless):
    done = redrive_letters([DeadLetter.objects.get().pk], by=BY, reason="try")
    assert (done.done, done.left) == (0, 1)
    assert DeadLetter.objects.get().attempts == 2


def test_a_letter_never_replaces_a_newer_write(homeless, session):
    homeless.save()
    write("AGENT_STATE", f"{homeless.pk}.a", "newer")
    flush(session)
    assert redrive_letters([DeadLetter.objects.get().pk], by=BY, reason="late").done == 1
    assert state(homeless) == {"a": "newer"}


def test_dropped_letters_are_gone(homeless):
    assert drop_letters([DeadLetter.objects.get().pk], by=BY, reason="nonsense") == 1
    assert not DeadLetter.objects.exists()


def quarantine(agent, base_revision):
    rows(
        "INSERT INTO bridge.quarantine"
        " (outbox_id, target, key, op, base_revision, payload, created_at, error, attempts)"
        " VALUES (1, 'AGENT_STATE', %s, 'U', %s, '1', now(), 'too large', 5)",
        f"{agent.pk}.a",
        base_revision,
    )


def test_a_row_whose_key_an_agent_wrote_since_is_past(agent, session):
    write("AGENT_STATE", f"{agent.pk}.a", "agent")
    flush(session)
    quarantine(agent, 0)
    assert redrive_rows([1], by=BY, reason="try").done == 0
    assert (QuarantinedRow.objects.count(), outbox()) == (0, [])


def test_a_row_that_is_still_the_newest_goes_back_under_its_id(agent):
    AgentState.objects.create(agent=agent, state_key="a", state_value=1)
    empty_outbox()
    quarantine(agent, 0)
    assert redrive_rows([1], by=BY, reason="limit raised").done == 1
    assert rows("SELECT outbox_id FROM bridge.outbox") == [(1,)]


def run(*words):
    out, code = StringIO(), 0
    try:
        call_command("bridge", "redrive", *words, "--json", stdout=out)
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, json.loads(out.getvalue())


def test_the_command_lists_applies_and_exits_1_while_something_fails(homeless):
    code, answer = run("--dry-run")
    assert (code, [item["what"] for item in answer["items"]]) == (0, ["flusher"])
    code, answer = run()
    assert (code, answer["counts"]) == (1, {"applied": 0, "failed_again": 1, "back_in_outbox": 0})
    homeless.save()
    assert run("--consumer", "flusher", "--reason", "now it exists")[1]["counts"]["applied"] == 1
    assert run() == (0, {"ok": True, "command": "bridge redrive", "items": [], "warnings": [],
                         "counts": {"applied": 0, "failed_again": 0, "back_in_outbox": 0}})  # fmt: skip


# -- the admin -------------------------------------------------------------------------------------------------
@pytest.fixture
def committed_admin(committed):
    """pytest-django's admin_client works in a transaction that nobody else sees."""
    user = get_user_model().objects.create_superuser("redriver", "", "x")
    client = Client()
    client.force_login(user)
    yield client
    rows("DELETE FROM django_session")
    user.delete()


def test_the_admin_shows_the_payload_and_applies_again_with_a_reason(homeless, committed_admin):
    admin_client = committed_admin
    letter = DeadLetter.objects.get()
    page = admin_client.get(reverse("admin:bridge_deadletter_change", args=[letter.pk])).content.decode()
    assert "{&quot;x&quot;: 1}" in page
    assert "no such agent" in page
    homeless.save()
    chosen = {"action": "apply_again", "_selected_action": [letter.pk]}
    listing = reverse("admin:bridge_deadletter_changelist")
    assert "reason" in admin_client.post(listing, chosen).content.decode()
    told = admin_client.post(listing, {**chosen, "confirmed": "1", "reason": "registered"}, follow=True)
    assert [str(message) for message in told.context["messages"]] == ["1 applied, 0 failed again."]
    assert state(homeless) == {"a": {"x": 1}}


def test_the_admin_shows_both_values_of_a_conflict_side_by_side(admin_client):
    conflict = Conflict.objects.create(
        target="AGENT_STATE",
        key="a.b",
        base_revision=1,
        kv_revision=2,
        kv_value='{"b": "<script>"}',
        pg_value=[1],
    )
    page = admin_client.get(reverse("admin:bridge_conflict_change", args=[conflict.pk])).content.decode()
    assert "PostgreSQL (won)" in page
    assert "The agent, in KV (lost)" in page
    assert "&quot;b&quot;: &quot;&lt;script&gt;&quot;" in page
    conflict.kv_value = None
    conflict.save()
    page = admin_client.get(reverse("admin:bridge_conflict_change", args=[conflict.pk])).content.decode()
    assert "(deleted)" in page


def test_a_rule_is_made_in_the_admin_and_a_second_of_its_prefix_is_refused(admin_client):
    address = reverse("admin:bridge_conflictrule_add")
    rule = {"bucket": "AGENT_STATE", "key_prefix": "memory.", "strategy": "reject"}
    assert admin_client.post(address, rule).status_code == 302
    again = admin_client.post(address, rule)
    assert again.status_code == 200
    assert "already exists" in again.content.decode()
