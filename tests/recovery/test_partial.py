"""A table, a schema or one agent's rows out of a backup, beside today's, and back."""

import json
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import connection
from django.urls import reverse

from agents.models import Agent, AgentState
from operators.audit import Actor
from operators.models import AuditEntry
from pg.errors import Refused
from recovery import staging
from recovery.errors import UnknownBackup
from recovery.logical import back_up
from recovery.models import TestResult
from recovery.partial import apply_staged, compare_staged
from recovery.partial_drill import run_partial_drill
from recovery.scope import in_order, read_scope
from recovery.staging import find_staged, home_session, list_staged, stage
from recovery.target import Target
from tests.marks import LATER
from tests.recovery.conftest import scratch_databases

BY = Actor("olga", "command")


def later(test):
    """Shown shorter by the others: CI runs it after them."""
    for mark in LATER:
        test = mark(test)
    return test


def rows(query, *parameters):
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def backed_up(transactional_db, backup_dir):
    """Two agents with state, checkpoints, tasks and facts, in a logical backup."""
    agents = [Agent.objects.create(agent_type="reader", agent_name=f"agent {n}") for n in range(2)]
    for agent in agents:
        for key in ("kept", "changed", "deleted"):
            AgentState.objects.create(agent_id=agent.pk, state_key=key, state_value={"v": 1})
        rows("INSERT INTO agents.checkpoints (agent_id, state_snapshot) VALUES (%s, '{}')", agent.pk)
        rows("INSERT INTO tasks.queue (task_type, assigned_agent_id) VALUES ('echo', %s)", agent.pk)
    return agents, back_up()


def spoil(agent):
    rows("UPDATE agents.state SET state_value = '2' WHERE agent_id = %s AND state_key = 'changed'", agent.pk)
    rows("DELETE FROM agents.state WHERE agent_id = %s AND state_key = 'deleted'", agent.pk)
    AgentState.objects.create(agent_id=agent.pk, state_key="new", state_value=3)
    rows("DELETE FROM tasks.queue WHERE assigned_agent_id = %s", agent.pk)


def values_of(agent):
    found = AgentState.objects.filter(agent_id=agent.pk).values_list("state_key", "state_value")
    return dict(found)


def test_one_agent_s_rows_come_back_and_nobody_else_s(backed_up, clones):
    (agent, other), backup = backed_up
    spoil(agent)
    spoil(other)
    staged = stage(read_scope("agent", str(agent.pk)), str(backup.pk))
    assert scratch_databases(clones) == []
    with home_session() as session:
        found = {each.table: each for each in compare_staged(session, staged)}
    assert next(iter(found)) == "agents.registry", "what others refer to comes first"
    state = found["agents.state"]
    assert (state.staged, state.missing, state.changed, state.extra) == (3, 1, 1, 1)
    assert f"agents.state missing {agent.pk} deleted" in state.examples
    assert found["tasks.queue"].missing == found["tasks.queue"].staged == 1
    assert found["agents.checkpoints"].missing == 0
    assert values_of(agent)["changed"] == 2, "staging changes nothing"

    rows("DELETE FROM bridge.outbox")
    done = {each.table: each for each in apply_staged(staged, BY, "lost by a bad deploy")}
    assert vars(done["agents.state"]) == {"table": "agents.state", "inserted": 1, "updated": 1, "deleted": 0}
    assert values_of(agent) == {"kept": {"v": 1}, "changed": {"v": 1}, "deleted": {"v": 1}, "new": 3}
    assert values_of(other) == {"kept": {"v": 1}, "changed": 2, "new": 3}
    assert rows("SELECT status FROM tasks.queue WHERE assigned_agent_id = %s", agent.pk) == [("queued",)]
    sent = {key for (key,) in rows("SELECT key FROM bridge.outbox WHERE target = 'AGENT_STATE'")}
    assert {f"{agent.pk}.changed", f"{agent.pk}.deleted", f"{agent.pk}.=epoch"} == sent, (
        "the outbox carries it to KV"
    )
    assert Agent.objects.get(pk=agent.pk).epoch == 2, "its running incarnation is shut out"
    entry = AuditEntry.objects.get(action="recovery.partial_restore")
    assert (entry.actor, entry.reason, entry.details["rows"]["agents.state"]) == (
        "olga",
        "lost by a bad deploy",
        [1, 1, 0],
    )
    before = rows(f'SELECT state_key, state_value FROM {staged.name}."before.agents.state" ORDER BY 1')
    assert [(key, json.loads(value)) for key, value in before] == [("changed", 2), ("new", 3)]

    again = apply_staged(staged, BY, "once more")
    assert [(each.inserted, each.updated) for each in again] == [(0, 0)] * len(again)
    gone = apply_staged(staged, BY, "and nothing else", delete_extra=True)
    assert sum(each.deleted for each in gone) == 1
    assert "new" not in values_of(agent)


@later
def test_an_agent_that_is_gone_comes_back_whole(backed_up):
    (agent, _), backup = backed_up
    rows("DELETE FROM agents.checkpoints WHERE agent_id = %s", agent.pk)
    rows("DELETE FROM agents.registry WHERE agent_id = %s", agent.pk)
    apply_staged(stage(read_scope("agent", str(agent.pk)), str(backup.pk)), BY, "deleted by mistake")
    assert len(values_of(agent)) == 3
    assert rows("SELECT count(*) FROM agents.checkpoints WHERE agent_id = %s", agent.pk) == [(1,)]
    assert rows("SELECT count(*) FROM tasks.queue WHERE assigned_agent_id = %s", agent.pk) == [(1,)]


def test_what_a_rule_forbids_changes_nothing(backed_up):
    (agent, _), backup = backed_up
    rows("DELETE FROM agents.checkpoints WHERE agent_id = %s", agent.pk)
    rows("DELETE FROM agents.registry WHERE agent_id = %s", agent.pk)
    staged = stage(read_scope("table", "agents.state"), str(backup.pk))
    with pytest.raises(Refused, match=r"table agents.state: .*foreign key"):
        apply_staged(staged, BY, "without its agent")
    assert values_of(agent) == {}
    assert not AuditEntry.objects.filter(action="recovery.partial_restore").exists()
    with pytest.raises(Refused, match="reason is empty"):
        apply_staged(staged, BY, " ")


@later
def test_by_command_with_preview_and_reason(backed_up):
    (agent, _), _ = backed_up
    spoil(agent)
    answer = run("stage", "--schema", "agents")
    name = answer["items"][0]["staged_as"]
    assert {item["table"] for item in answer["items"]} >= {
        "agents.registry",
        "agents.state",
        "agents.checkpoints",
    }
    assert [item["name"] for item in run("staged")["items"]] == [name]
    assert run("apply", name, "--dry-run")["counts"]["changed"] == 1
    assert values_of(agent)["changed"] == 2
    assert run("apply", name, "--reason", "by hand")["counts"] == {"inserted": 1, "updated": 1, "deleted": 0}
    assert run("unstage", name)["counts"] == {"dropped": 1}
    assert run("staged")["items"] == []


def run(*arguments):
    out = StringIO()
    call_command("backup", *arguments, "--json", stdout=out)
    return json.loads(out.getvalue())


@later
def test_what_is_no_scope_or_not_in_the_backup_is_refused(backed_up):
    for kind, name in (
        ("agent", "nobody"),
        ("table", "state"),
        ("table", "agents.nothing"),
        ("schema", "nothing"),
    ):
        with pytest.raises(Refused):
            stage(read_scope(kind, name))
    rows("CREATE TABLE agents.later (id int PRIMARY KEY)")
    with pytest.raises(Refused, match=r"the backup has no table agents\.later"):
        stage(read_scope("table", "agents.later"))
    with pytest.raises(Refused, match="the backup has no rows of agent"):
        stage(read_scope("agent", "01a21847-237e-7f82-9448-047ceeb4f110"))
    with home_session() as session:
        assert list_staged(session) == []
        with pytest.raises(Refused, match="nothing is staged"):
            find_staged(session, "")


def test_as_of_a_moment_rows_come_from_base_backups(story, monkeypatch):
    """The story's server is the home here: its only table, as of the middle of its history."""
    monkeypatch.setattr(staging, "home_server", lambda: story.server)
    staged = stage(read_scope("table", "public.numbered"), target=Target("name", "middle"))
    try:
        with story.connect() as session:
            count = session.execute(f'SELECT count(*) FROM {staged.name}."public.numbered"').fetchone()[0]
            [found] = compare_staged(session, staged)
    finally:
        with story.connect() as session:
            staging.unstage(session, staged)
    assert count == story.moments["middle"].rows
    assert (found.missing, found.changed) == (0, 0)
    assert found.extra > 0


def test_a_drill_counts_what_came_back_and_puts_it_away(backed_up):
    drill = run_partial_drill(table="agents.state")
    assert (drill.problems, drill.rows) == ([], 6)
    row = TestResult.objects.get(test_type="partial_restore")
    assert (row.test_status, row.data_verification_passed) == ("passed", True)
    assert row.performance_metrics["rto_seconds"] > 0
    with home_session() as session:
        assert list_staged(session) == []


def test_a_drill_without_a_backup_says_so(transactional_db, backup_dir):
    with pytest.raises(UnknownBackup):
        run_partial_drill()
    assert TestResult.objects.get().test_status == "failed"


@later
def test_the_page_shows_differences_and_asks_why(backed_up, admin_client, client):
    (agent, _), backup = backed_up
    spoil(agent)
    staged = stage(read_scope("agent", str(agent.pk)), str(backup.pk))
    page = admin_client.get(reverse("admin:recovery_backup_partial")).content.decode()
    link = reverse("admin:recovery_backup_staged", args=[staged.name])
    assert link in page
    shown = admin_client.get(link).content.decode()
    assert f"agents.state changed {agent.pk} changed" in shown
    admin_client.post(link, {"reason": ""})
    assert values_of(agent)["changed"] == 2, "no reason, no change"
    admin_client.post(link, {"reason": "asked for"})
    assert values_of(agent)["changed"] == {"v": 1}
    admin_client.post(link, {"put_away": "1"})
    assert admin_client.get(link).status_code == 302
    assert client.get(link).status_code == 302, "log in first"


def test_tables_come_after_what_they_refer_to():
    needs = [("c", "b"), ("b", "a"), ("a", "c")]
    assert in_order(["c", "b", "a"], needs) == ["a", "b", "c"]
