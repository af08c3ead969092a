"""Checkpoints and roll-backs while the agent writes to KV: both stores end at the same state."""

import threading

import pytest
from django.contrib.auth.models import User
from django.urls import reverse

from agents.checkpoints import create_checkpoint
from agents.rollback import roll_back
from agents.state import read_state, write_state
from bridge import connection, settling, state
from bridge.keys import fence_key
from bridge.reconcile import reconcile
from bridge.relay import Memory, relay_batch
from bridge.session import open_session
from bridge.state import AgentState as StateApi
from operators.audit import Actor
from operators.models import AuditEntry
from pg.errors import Refused
from tests.bridge.conftest import rows, value, wait_until
from tests.bridge.flushing import flush, write

pytestmark = pytest.mark.usefixtures("committed", "jetstream")


@pytest.fixture(autouse=True)
def nats_is_believed_to_be_there():
    state.breaker.reset()


@pytest.fixture
def flushing(committed):
    """A flusher and a relay, in turns, until the test ends."""
    is_over = threading.Event()

    def work():
        with open_session() as session:
            while not is_over.is_set():
                flush(session)
                relay_batch(session, Memory())

    thread = threading.Thread(target=work)
    thread.start()
    yield
    is_over.set()
    thread.join(30)


def back(agent, saved, **options):
    return roll_back(agent.pk, saved, by=Actor("ann", "command"), **options)


def test_a_checkpoint_waits_for_what_the_agent_wrote_and_says_up_to_where(agent, flushing):
    revision = write("AGENT_STATE", f"{agent.pk}.a", {"x": 1})
    saved = create_checkpoint(agent.pk)
    assert saved.state_snapshot["a"]["value"] == {"x": 1}
    assert saved.state_snapshot["a"]["kv_revision"] == revision
    assert saved.kv_revision >= revision


def test_a_checkpoint_without_a_flusher_is_made_and_claims_nothing(agent, monkeypatch):
    monkeypatch.setattr(settling, "FLUSH_SECONDS", 0.05)
    write("AGENT_STATE", f"{agent.pk}.a", 1)
    saved = create_checkpoint(agent.pk)
    assert (saved.kv_revision, saved.state_snapshot) == (None, {})


def test_both_stores_are_put_back_and_the_old_incarnation_is_out(agent, flushing, session):
    zombie = StateApi(agent.pk, epoch=1)
    zombie.put_many({"a": 1, "b": 2})
    saved = create_checkpoint(agent.pk)
    zombie.put_many({"a": 9, "c": 3})
    done = back(agent, saved)
    assert (done.changed, done.epoch, done.warnings) == (2, 2, ())
    assert done.undo.state_snapshot.keys() == {"a", "b", "c"}
    with pytest.raises(Refused, match="successor"):
        zombie.put("a", "from the grave")
    assert read_state(agent.pk) == {"a": 1, "b": 2}
    wait_until(lambda: rows("SELECT count(*) FROM bridge.outbox") == [(0,)])
    assert {key: each.value for key, each in StateApi(agent.pk).read_many().items()} == {"a": 1, "b": 2}
    back(agent, done.undo)
    wait_until(lambda: rows("SELECT count(*) FROM bridge.outbox") == [(0,)])
    assert {key: each.value for key, each in StateApi(agent.pk).read_many().items()} == {
        "a": 9,
        "b": 2,
        "c": 3,
    }


@pytest.mark.deep
@pytest.mark.ci
def test_stores_agree_after_a_roll_back_against_a_writer_without_epoch(agent, flushing, session):
    write("AGENT_STATE", f"{agent.pk}.a", 1)
    saved = create_checkpoint(agent.pk)
    for number in range(20):
        write("AGENT_STATE", f"{agent.pk}.a", number)
        if number == 10:
            back(agent, saved)
    wait_until(lambda: settled(session))
    assert read_state(agent.pk)["a"] == value("AGENT_STATE", f"{agent.pk}.a")


def settled(session):
    with open_session() as own:
        return all(
            not report.wrong and not report.found["in_flight"] for report in reconcile(own, repair=False)
        )


def test_without_a_flusher_it_is_refused_unless_forced(agent, monkeypatch):
    monkeypatch.setattr(settling, "FLUSH_SECONDS", 0.05)
    write_state(agent.pk, {"a": 1})
    saved = create_checkpoint(agent.pk)
    write("AGENT_STATE", f"{agent.pk}.b", 2)
    with pytest.raises(Refused, match="1 keys"):
        back(agent, saved)
    assert back(agent, saved, force=True).warnings


def test_the_new_epoch_is_in_kv_before_the_state_is_replaced(agent, flushing):
    write_state(agent.pk, {"a": 1})
    back(agent, create_checkpoint(agent.pk))
    assert value("AGENT_STATE", fence_key(agent.pk)) == {"epoch": 2}


def test_while_nats_is_away_postgresql_is_put_back_and_the_answer_says_so(agent, settings, monkeypatch):
    write_state(agent.pk, {"a": 1})
    saved = create_checkpoint(agent.pk)
    write_state(agent.pk, {"a": 2})
    connection.close()
    settings.NATS_URL = "nats://127.0.0.1:9"
    monkeypatch.setattr(connection, "PATIENCE_SECONDS", 0.1)
    try:
        done = back(agent, saved)
    finally:
        connection.close()
    assert (read_state(agent.pk), len(done.warnings)) == ({"a": 1}, 1)


@pytest.fixture
def operator(committed, client):
    user = User.objects.create_superuser("roller")
    client.force_login(user)
    yield client
    user.delete()


def test_the_admin_shows_what_changes_asks_why_and_offers_the_way_back(agent, operator, flushing):
    write_state(agent.pk, {"a": "<b>old</b>", "same": 1})
    saved = create_checkpoint(agent.pk, "good")
    write_state(agent.pk, {"a": "new"})
    url = reverse("admin:agents_checkpoint_changelist")
    page = operator.post(url, {"action": "restore", "_selected_action": [str(saved.pk)]}, follow=True)
    text = page.content.decode()
    assert "1 keys change" in text
    assert "&lt;b&gt;old&lt;/b&gt;" in text
    assert "<b>old</b>" not in text
    here = page.redirect_chain[-1][0]
    assert "field is required" in operator.post(here, {"reason": " "}).content.decode()
    assert read_state(agent.pk)["a"] == "new"
    page = operator.post(here, {"reason": "astray"}, follow=True)
    assert "Undo it" in page.content.decode()
    assert read_state(agent.pk)["a"] == "<b>old</b>"
    assert AuditEntry.objects.get(action="agents.roll_back", reason="astray").actor == "roller"


def test_who_may_not_change_agents_may_not_roll_back(agent, committed, client):
    user = User.objects.create_user("looker", is_staff=True)
    client.force_login(user)
    saved = create_checkpoint(agent.pk)
    assert client.get(reverse("admin:agents_checkpoint_rollback", args=[saved.pk])).status_code == 403
    user.delete()
