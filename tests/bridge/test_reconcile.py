"""Keys changed, deleted and added by hand in each store are found, named and repaired."""

import json

import pytest

from agents.models import Agent, AgentState
from agents.state import write_state
from bridge import connection, reconcile
from bridge.comparing import is_same_json
from bridge.fence import FENCE
from bridge.relay import Memory, relay_batch
from bridge.session import open_session
from pg.errors import Refused
from tasks.models import Task
from tests.bridge.conftest import empty_outbox, look, rows, value
from tests.bridge.conftest import put as put_as_agent
from tests.bridge.flushing import flush, wait_for_source, write

pytestmark = pytest.mark.usefixtures("committed", "jetstream")


@pytest.fixture
def in_step(agent, session):
    """Everything in both stores, nothing waiting."""
    write_state(agent.pk, {"a": {"x": 1}, "b": 2, "c d": [None]})
    Task.objects.create(task_type="echo")
    while relay_batch(session, Memory()).read:
        pass
    return agent


def run(session, repair=True):
    """Return {bucket: {count: number}} without zeros."""
    items = [report.as_item() for report in reconcile.reconcile(session, repair)]
    return {item.pop("bucket"): {name: number for name, number in item.items() if number} for item in items}


def by_hand(statement, *params):
    """Change PostgreSQL behind the triggers' back."""
    rows("SET session_replication_role = replica")
    rows(statement, *params)
    rows("SET session_replication_role = origin")


CLEAN = {
    "AGENT_STATE": {"compared": 3},
    "AGENT_CONFIG": {"compared": 1},
    "TASK_STATE": {"compared": 1},
    "SESSION_DATA": {},
}


def put(bucket, key, data):
    """Write to KV as no agent does: an agent's write is not wrong, it is on its way to PostgreSQL."""
    text = json.dumps(data).encode()
    connection.call(
        lambda c: c.jetstream.publish(f"$KV.{bucket}.{key}", text, headers={"Sync-Origin": "hand"})
    )


def delete(bucket, key):
    headers = {"KV-Operation": "DEL", "Sync-Origin": "hand"}
    connection.call(lambda c: c.jetstream.publish(f"$KV.{bucket}.{key}", b"", headers=headers))


def test_stores_in_step_have_nothing_wrong(in_step, session):
    assert run(session) == CLEAN


def test_keys_touched_by_hand_in_kv_are_found_and_repaired(in_step, session):
    task = Task.objects.get()
    put("AGENT_STATE", f"{in_step.pk}.a", {"x": 99})
    delete("AGENT_STATE", f"{in_step.pk}.b")
    put("AGENT_STATE", f"{in_step.pk}.added", 1)
    put("AGENT_STATE", "not-even-an-agent", 1)
    put("AGENT_CONFIG", str(in_step.pk), "not what it was")
    connection.call(lambda c: c.jetstream.publish(f"$KV.TASK_STATE.{task.pk}", b"{not json"))
    wrong = {
        "AGENT_STATE": {"compared": 5, "stale": 1, "missing": 1, "extra": 2},
        "AGENT_CONFIG": {"compared": 1, "stale": 1},
        "TASK_STATE": {"compared": 1, "stale": 1},
    }
    numbers = {"AGENT_STATE": 4, "AGENT_CONFIG": 1, "TASK_STATE": 1}
    found = {b: {**wrong[b], "left": numbers[b]} for b in wrong}
    assert run(session, repair=False) == {**found, "SESSION_DATA": {}}
    repaired = {b: {**wrong[b], "repaired": numbers[b]} for b in wrong}
    assert run(session) == {**repaired, "SESSION_DATA": {}}
    assert run(session) == CLEAN
    assert value("AGENT_STATE", f"{in_step.pk}.a") == {"x": 1}
    assert value("AGENT_STATE", f"{in_step.pk}.b") == 2
    assert value("AGENT_STATE", f"{in_step.pk}.added") is None


def test_rows_touched_by_hand_in_postgresql_are_found_and_repaired(in_step, session):
    by_hand("UPDATE agents.state SET state_value = '\"new\"' WHERE state_key = 'a'")
    by_hand("DELETE FROM agents.state WHERE state_key = 'b'")
    by_hand(
        "INSERT INTO agents.state (agent_id, state_key, state_value) VALUES (%s, 'added', '5')", in_step.pk
    )
    by_hand("UPDATE agents.registry SET agent_name = 'renamed'")
    by_hand("DELETE FROM tasks.queue")
    found = run(session)
    assert found == {
        "AGENT_STATE": {"compared": 4, "stale": 1, "missing": 1, "extra": 1, "repaired": 3},
        "AGENT_CONFIG": {"compared": 1, "stale": 1, "repaired": 1},
        "TASK_STATE": {"compared": 1, "extra": 1, "repaired": 1},
        "SESSION_DATA": {},
    }
    assert value("AGENT_STATE", f"{in_step.pk}.a") == "new"
    assert value("AGENT_STATE", f"{in_step.pk}.b") is None
    assert value("AGENT_STATE", f"{in_step.pk}.added") == 5
    assert value("AGENT_CONFIG", str(in_step.pk))["agent_name"] == "renamed"
    assert {bucket: counts.get("repaired") for bucket, counts in run(session).items()} == dict.fromkeys(CLEAN)


def test_wrong_keys_are_named(in_step, session):
    delete("AGENT_STATE", f"{in_step.pk}.b")
    reports = reconcile.reconcile(session, repair=False)
    assert [line for report in reports for line in report.named] == [f"AGENT_STATE {in_step.pk}.b: missing"]


def test_what_an_agent_wrote_is_left_to_the_flusher(in_step, session):
    put_as_agent("AGENT_STATE", f"{in_step.pk}.a", "agent's own")
    put_as_agent("AGENT_STATE", f"{in_step.pk}.added", "agent's too")
    assert run(session)["AGENT_STATE"] == {"compared": 4, "in_flight": 2}
    assert value("AGENT_STATE", f"{in_step.pk}.a") == "agent's own"
    wait_for_source("AGENT_STATE", look("AGENT_STATE", f"{in_step.pk}.added").revision)
    flush(session)
    assert run(session)["AGENT_STATE"] == {"compared": 4}
    rows("DELETE FROM agents.state")
    empty_outbox()
    assert run(session)["AGENT_STATE"] == {"compared": 4, "extra": 4, "repaired": 4}, (
        "a deleted row's position says that its last write was flushed"
    )


@pytest.mark.parametrize("key", ["a", "new"])
def test_what_was_set_apart_waits_for_a_decision_and_is_repaired_when_it_is_dropped(in_step, session, key):
    name = f"{in_step.pk}.{key}"
    compared = 3 + (key == "new")
    write("AGENT_STATE", name, b"{no json")
    assert flush(session).dead == 1
    assert run(session)["AGENT_STATE"] == {"compared": compared, "set_apart": 1}
    (report,) = [r for r in reconcile.reconcile(session, repair=True) if r.bucket == "AGENT_STATE"]
    assert report.named == [f"AGENT_STATE {name}: set_apart"]
    rows("DELETE FROM bridge.dead_letters")
    what = "extra" if key == "new" else "stale"
    assert run(session)["AGENT_STATE"] == {"compared": compared, what: 1, "repaired": 1}
    assert value("AGENT_STATE", name) == (None if key == "new" else {"x": 1})
    assert rows("SELECT kv_value FROM bridge.conflict") == [("{no json",)]
    assert run(session) == CLEAN


def test_rows_on_their_way_are_in_flight_and_left_alone(in_step, session):
    AgentState.objects.filter(state_key="a").update(state_value=7)
    Agent.objects.filter(pk=in_step.pk).update(agent_name="renamed")
    assert run(session) == {
        "AGENT_STATE": {"compared": 3, "in_flight": 1},
        "AGENT_CONFIG": {"compared": 1, "in_flight": 1},
        "TASK_STATE": {"compared": 1},
        "SESSION_DATA": {},
    }
    assert value("AGENT_STATE", f"{in_step.pk}.a") == {"x": 1}


def test_values_past_their_time_are_expired_and_not_wrong(in_step, session):
    by_hand("UPDATE agents.state SET updated_at = now() - interval '31 minutes' WHERE state_key = 'a'")
    by_hand("UPDATE agents.state SET updated_at = now() - interval '29 minutes' WHERE state_key = 'b'")
    by_hand("UPDATE agents.registry SET updated_at = now() - interval '1 year'")
    for bucket in ("AGENT_STATE", "AGENT_CONFIG"):
        connection.call(lambda c, name=bucket: c.jetstream.purge_stream(f"KV_{name}"))
    found = run(session, repair=False)
    assert found["AGENT_STATE"] == {"compared": 3, "expired": 1, "missing": 2, "left": 2}
    assert found["AGENT_CONFIG"] == {"compared": 1, "missing": 1, "left": 1}


def test_an_emptied_jetstream_is_filled_again(in_step, session):
    number = 1_200
    rows("INSERT INTO agents.state (agent_id, state_key, state_value)"
         " SELECT %s, 'many.' || n, to_jsonb(n) FROM generate_series(1, %s) n", in_step.pk, number)  # fmt: skip
    empty_outbox()
    assert run(session)["AGENT_STATE"] == {"compared": number + 3, "missing": number, "repaired": number}
    assert run(session)["AGENT_STATE"] == {"compared": number + 3}
    assert value("AGENT_STATE", f"{in_step.pk}.many.{number}") == number


def test_a_key_that_moves_during_the_repair_ends_at_the_newer_value(in_step, session, monkeypatch):
    delete("AGENT_STATE", f"{in_step.pk}.b")
    real = reconcile.publish_repairs

    def overtaken(session, mirror, looks):
        AgentState.objects.filter(state_key="b").update(state_value="newer")
        with open_session() as other:
            relay_batch(other, Memory())
        return real(session, mirror, looks)

    monkeypatch.setattr(reconcile, "publish_repairs", overtaken)
    assert run(session)["AGENT_STATE"] == {"compared": 3, "missing": 1, "repaired": 1}
    assert value("AGENT_STATE", f"{in_step.pk}.b") == "newer"


def test_a_repair_keeps_the_mark_against_older_rows(in_step, session):
    before = look("AGENT_STATE", f"{in_step.pk}.b")
    by_hand("UPDATE agents.state SET state_value = '3' WHERE state_key = 'b'")
    run(session)
    after = look("AGENT_STATE", f"{in_step.pk}.b")
    assert (after.sync_id, after.is_foreign, value("AGENT_STATE", f"{in_step.pk}.b")) == (
        before.sync_id,
        False,
        3,
    )


def test_a_backup_stops_repairs_and_a_missing_bucket_everything(in_step, session):
    delete("AGENT_STATE", f"{in_step.pk}.b")
    with open_session([f"SELECT pg_advisory_lock({FENCE})"]), pytest.raises(Refused, match="backup"):
        run(session)
    connection.call(lambda c: c.jetstream.delete_stream("KV_TASK_STATE"))
    with pytest.raises(Refused, match="TASK_STATE"):
        run(session)


@pytest.mark.parametrize(
    ("text", "data", "same"),
    [
        ('{"a": 1, "b": 2}', b'{"b":2,"a":1}', True),
        ("1", b"1.0", False),
        ("1", b"true", False),
        ("0.1000", b"0.1", False),
        ("123456789012345678901234567890", b"123456789012345678901234567891", False),
        ('"\\u00e4"', '"ä"'.encode(), True),
        ("null", b"", False),
        ("1", b"\xff", False),
    ],
)
def test_values_are_compared_by_content(text, data, same):
    assert is_same_json(text, data) is same
