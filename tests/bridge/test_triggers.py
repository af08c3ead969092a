"""Which writes reach the outbox, whoever makes them and however."""

from datetime import timedelta
from uuid import UUID

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models.functions import Now
from django.db.utils import DatabaseError
from django.utils import timezone

from agents.models import Agent, AgentState, LifecycleEvent
from bridge.mirrors import MIRRORS, read_expected
from sessions.lifecycle import open_session, revoke, rotate
from sessions.models import Session
from tasks.models import Task
from tests.bridge.conftest import empty_outbox, outbox, rows

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def nothing_waits(agent):
    empty_outbox()


def state(agent, key, value):
    return AgentState(agent=agent, state_key=key, state_value=value)


def of(target):
    return [(key, op, payload) for found, key, op, payload in outbox() if found == target]


# -- every kind of write to agents.state -----------------------------------------------------------------------
def test_saving_a_state_sends_its_value(agent):
    state(agent, "a", {"x": 1}).save()
    assert outbox() == [("AGENT_STATE", f"{agent.pk}.a", "U", {"x": 1})]


def test_a_json_null_is_a_value(agent):
    rows("INSERT INTO agents.state (agent_id, state_key, state_value) VALUES (%s, 'a', 'null')", agent.pk)
    assert rows("SELECT op::text, payload::text FROM bridge.outbox") == [("U", "null")]


def test_bulk_create_and_bulk_update_send_each_row(agent):
    states = AgentState.objects.bulk_create([state(agent, f"k{n}", n) for n in range(5)])
    for row in states:
        row.state_value += 10
    AgentState.objects.bulk_update(states, ["state_value"])
    sent = [(key.rpartition(".")[2], payload) for key, op, payload in of("AGENT_STATE")]
    assert sorted(sent) == sorted([(f"k{n}", n) for n in range(5)] + [(f"k{n}", n + 10) for n in range(5)])


def test_queryset_update_and_delete_send_each_row(agent):
    AgentState.objects.bulk_create([state(agent, key, 1) for key in "ab"])
    empty_outbox()
    AgentState.objects.update(state_value=2)
    AgentState.objects.all().delete()
    assert sorted(op + str(payload) for _, op, payload in of("AGENT_STATE")) == ["DNone", "DNone", "U2", "U2"]


def test_raw_sql_sends(agent):
    rows("INSERT INTO agents.state (agent_id, state_key, state_value) VALUES (%s, 'a b', '1')", agent.pk)
    assert of("AGENT_STATE") == [(f"{agent.pk}.a=20b", "U", 1)]


def test_copy_sends(agent):
    with (
        connection.cursor() as cursor,
        cursor.copy("COPY agents.state (agent_id, state_key, state_value) FROM STDIN") as copy,
    ):
        for key in "ab":
            copy.write_row((agent.pk, key, "7"))
    assert of("AGENT_STATE") == [(f"{agent.pk}.a", "U", 7), (f"{agent.pk}.b", "U", 7)]


def test_an_upsert_sends_new_and_changed_rows_once(agent):
    state(agent, "old", 1).save()
    state(agent, "same", 3).save()
    empty_outbox()
    rows(
        "INSERT INTO agents.state (agent_id, state_key, state_value)"
        " VALUES (%s, 'old', '2'), (%s, 'new', '2'), (%s, 'same', '3')"
        " ON CONFLICT (agent_id, state_key) DO UPDATE SET state_value = EXCLUDED.state_value",
        agent.pk, agent.pk, agent.pk,
    )  # fmt: skip
    assert sorted(of("AGENT_STATE")) == [(f"{agent.pk}.new", "U", 2), (f"{agent.pk}.old", "U", 2)]


def test_merge_sends_inserts_updates_and_deletes(agent):
    AgentState.objects.bulk_create([state(agent, "change", 1), state(agent, "drop", 1)])
    empty_outbox()
    rows(
        "MERGE INTO agents.state s USING (VALUES ('change', '2'::jsonb), ('drop', NULL), ('new', '3')) v (k, x)"
        " ON s.agent_id = %s AND s.state_key = v.k"
        " WHEN MATCHED AND v.x IS NULL THEN DELETE"
        " WHEN MATCHED THEN UPDATE SET state_value = v.x"
        " WHEN NOT MATCHED THEN INSERT (agent_id, state_key, state_value) VALUES (%s, v.k, v.x)",
        agent.pk, agent.pk,
    )  # fmt: skip
    assert sorted(of("AGENT_STATE"), key=str) == sorted(
        [(f"{agent.pk}.change", "U", 2), (f"{agent.pk}.drop", "D", None), (f"{agent.pk}.new", "U", 3)],
        key=str,
    )


def test_a_cascade_sends_deletes(agent):
    AgentState.objects.bulk_create([state(agent, key, 1) for key in "ab"])
    empty_outbox()
    rows("DELETE FROM agents.registry WHERE agent_id = %s", agent.pk)
    assert of("AGENT_CONFIG") == [(str(agent.pk), "D", None)]
    assert sorted(of("AGENT_STATE")) == [(f"{agent.pk}.a", "D", None), (f"{agent.pk}.b", "D", None)]


@pytest.mark.parametrize("column", ["state_key", "agent_id"])
def test_a_moved_key_is_deleted_where_it_was(agent, column):
    other = Agent.objects.create(agent_type="reader", agent_name="other")
    state(agent, "a", 1).save()
    empty_outbox()
    target = "b" if column == "state_key" else other.pk
    rows(f"UPDATE agents.state SET {column} = %s", target)
    moved = f"{agent.pk}.b" if column == "state_key" else f"{other.pk}.a"
    assert sorted(of("AGENT_STATE"), key=lambda row: row[1]) == [
        (f"{agent.pk}.a", "D", None),
        (moved, "U", 1),
    ]


def test_changes_that_nobody_sees_send_nothing(agent):
    state(agent, "a", 1).save()
    empty_outbox()
    rows("UPDATE agents.state SET state_value = state_value")
    rows("UPDATE agents.state SET kv_revision = 5")
    rows("UPDATE agents.state SET state_value = '2' WHERE false")
    assert outbox() == []


def test_a_time_to_live_is_sent_with_the_value_and_when_it_alone_changes(agent):
    AgentState.objects.create(agent=agent, state_key="a", state_value=1)
    rows("UPDATE agents.state SET expires_at = '2100-01-01Z'")
    rows("UPDATE agents.state SET expires_at = expires_at")
    assert rows(
        "SELECT op::text, expires_at::text FROM bridge.outbox WHERE target = 'AGENT_STATE' AND op <> 'E'"
    ) == [
        ("U", None),
        ("U", "2100-01-01 00:00:00+00"),
    ]


def test_a_new_epoch_is_sent_once(agent):
    empty_outbox()
    rows("UPDATE agents.registry SET epoch = 7")
    rows("UPDATE agents.registry SET epoch = 7")
    assert of("AGENT_STATE") == [(f"{agent.pk}.=epoch", "U", {"epoch": 7})]


def test_what_came_from_kv_is_not_sent_back(agent):
    rows("SET LOCAL sync.origin = 'kv'")
    state(agent, "a", 1).save()
    AgentState.objects.update(state_value=2)
    AgentState.objects.all().delete()
    assert outbox() == []


def test_a_write_carries_the_revision_that_its_row_came_from(agent):
    rows(
        "INSERT INTO agents.state (agent_id, state_key, state_value, kv_revision) VALUES (%s, 'a', '1', 41)",
        agent.pk,
    )
    rows("UPDATE agents.state SET state_value = '2'")
    rows("DELETE FROM agents.state")
    assert rows("SELECT DISTINCT base_revision FROM bridge.outbox") == [(41,)]


def test_a_revision_of_a_former_bucket_is_none_that_the_writer_saw(agent):
    rows("UPDATE bridge.sources SET kv_epoch = 2 WHERE bucket = 'AGENT_STATE'")
    rows(
        "INSERT INTO agents.state (agent_id, state_key, state_value, kv_epoch, kv_revision)"
        " VALUES (%s, 'old', '1', 1, 41), (%s, 'new', '1', 2, 7)",
        agent.pk, agent.pk,
    )  # fmt: skip
    assert rows("SELECT base_revision FROM bridge.outbox WHERE op = 'U' ORDER BY outbox_id")[-2:] == [
        (0,),
        (7,),
    ]


def test_a_deleted_row_leaves_its_position_unless_it_never_had_one(agent):
    rows(
        "INSERT INTO agents.state (agent_id, state_key, state_value, kv_revision)"
        " VALUES (%s, 'a', '1', 41), (%s, 'b', '1', 0)",
        agent.pk, agent.pk,
    )  # fmt: skip
    rows("DELETE FROM agents.state")
    assert rows("SELECT bucket, key, kv_revision FROM bridge.tombstones") == [
        ("AGENT_STATE", f"{agent.pk}.a", 41)
    ]


# -- sessions.active -> SESSION_DATA ---------------------------------------------------------------------------
def test_a_session_s_data_is_sent_and_its_use_is_not(agent):
    session, _ = open_session(timedelta(hours=1), agent_id=agent.pk, session_data={"step": 1})
    Session.objects.update(last_activity=Now(), preferences={"x": 1})
    assert of("SESSION_DATA") == [(str(session.pk), "U", {"step": 1})]
    revoke([session.pk])
    assert of("SESSION_DATA")[1:] == [(str(session.pk), "D", None)]


def test_a_rotated_session_moves_its_data_to_the_new_key(agent):
    old, _ = open_session(timedelta(hours=1), agent_id=agent.pk, session_data={"step": 1})
    empty_outbox()
    new, _ = rotate(old.pk)
    assert sorted(of("SESSION_DATA"), key=lambda row: row[1]) == [
        (str(old.pk), "D", None),
        (str(new.pk), "U", {"step": 1}),
    ]


def test_writing_a_leaf_sends_too(agent):
    state(agent, "a", 1).save()
    leaf = rows("SELECT tableoid::regclass::text FROM agents.state")[0][0]
    empty_outbox()
    rows(f"UPDATE {leaf} SET state_value = '2'")
    rows(f"DELETE FROM {leaf}")
    assert [op for _, op, _ in of("AGENT_STATE")] == ["U", "D"]


@pytest.mark.parametrize(
    "table", ["agents.state", "agents.registry", "tasks.queue", "tasks.queue_default", "agents.state_3"]
)
def test_truncate_is_refused_with_a_way_out(agent, table):
    with pytest.raises(DatabaseError, match="use DELETE"), transaction.atomic():
        rows(f"TRUNCATE {table} CASCADE")
    rows("SET LOCAL bridge.allow_truncate = 'on'")
    rows(f"TRUNCATE {table} CASCADE")


def test_a_failed_transaction_sends_nothing(agent):
    with pytest.raises(IntegrityError):
        write_twice(agent)
    assert outbox() == []


@transaction.atomic
def write_twice(agent):
    state(agent, "a", 1).save()
    rows("INSERT INTO agents.state (agent_id, state_key, state_value) VALUES (%s, 'a', '2')", agent.pk)


# -- agents.registry and its events ----------------------------------------------------------------------------
def test_configuration_is_sent_and_heartbeats_are_not(agent):
    Agent.objects.filter(pk=agent.pk).update(last_heartbeat=timezone.now(), liveness="alive")
    rows("INSERT INTO agents.heartbeats VALUES (%s, now())", agent.pk)
    assert outbox() == []
    Agent.objects.filter(pk=agent.pk).update(configuration={"depth": 3})
    assert outbox() == [
        ("AGENT_CONFIG", str(agent.pk), "U",
         {"agent_id": str(agent.pk), "agent_type": "reader", "agent_name": "reader-1",
          "configuration": {"depth": 3}, "capabilities": {}})
    ]  # fmt: skip


def test_lifecycle_events_are_sent_with_their_subject(agent):
    rows("UPDATE agents.registry SET status = 'active'")
    (target, subject, op, payload) = outbox()[0]
    assert (target, subject, op) == ("AGENT_STATE", f"agents.lifecycle.{agent.pk}.active", "E")
    assert (payload["previous_status"], payload["new_status"]) == ("initializing", "active")
    assert UUID(payload["event_id"]) == LifecycleEvent.objects.get(event_type="active").pk


def test_an_event_type_that_is_no_token_is_encoded(agent):
    LifecycleEvent.objects.create(agent=agent, event_type="took a. break")
    assert outbox()[0][1] == f"agents.lifecycle.{agent.pk}.took=20a=2E=20break"


# -- tasks.queue -----------------------------------------------------------------------------------------------
def make_task(task_type="echo"):
    empty_outbox()
    return Task.objects.create(task_type=task_type)


def test_a_new_task_sends_its_state_and_the_news():
    task = make_task()
    (state_key, state_op, payload), (event_key, event_op, event) = (
        of("TASK_STATE")[0],
        of("TASK_EXECUTION")[0],
    )
    assert (state_key, state_op, payload["status"]) == (str(task.pk), "U", "queued")
    assert (event_key, event_op, event) == (f"tasks.created.{task.pk}", "E", payload)
    assert set(payload) == {"task_id", "task_type", "status", "status_reason", "priority", "attempt", "worker",
                            "retry_count", "progress", "started_at", "completed_at"}  # fmt: skip


def claim(task, worker):
    rows("UPDATE tasks.queue SET status = 'running', worker = %s, attempt = attempt + 1, started_at = now(),"
         " lease_until = now() + interval '1 minute' WHERE task_id = %s", worker, task.pk)  # fmt: skip


def finish(task, status, reason=None):
    rows("UPDATE tasks.queue SET status = %s, status_reason = %s, completed_at = now(), worker = NULL"
         " WHERE task_id = %s", status, reason, task.pk)  # fmt: skip


@pytest.mark.parametrize(
    ("status", "reason", "tail"),
    [
        ("completed", None, "{worker}"),
        ("failed", "ValueError: no", "valueerror_no"),
        ("failed", None, "unknown"),
        ("cancelled", "why", None),
    ],
)
def test_each_move_of_a_task_is_an_event(agent, status, reason, tail):
    task = make_task()
    claim(task, agent.pk)
    finish(task, status, reason)
    subjects = [key for key, _, _ in of("TASK_EXECUTION")]
    last = f"tasks.{status}.{task.pk}" + (f".{tail.format(worker=agent.pk)}" if tail else "")
    assert subjects == [f"tasks.created.{task.pk}", f"tasks.started.{task.pk}.{agent.pk}", last]
    assert [payload["status"] for _, _, payload in of("TASK_STATE")] == ["queued", "running", status]


def test_renewing_a_lease_sends_nothing(agent):
    task = make_task()
    claim(task, agent.pk)
    empty_outbox()
    rows("UPDATE tasks.queue SET lease_until = now() + interval '5 minutes'")
    assert outbox() == []
    rows("UPDATE tasks.queue SET progress = '{\"done\": 5}'")
    assert [(key, payload["progress"]) for key, _, payload in of("TASK_STATE")] == [
        (str(task.pk), {"done": 5})
    ]
    assert of("TASK_EXECUTION") == []


def test_writing_the_leaf_of_a_type_sends_as_the_queue_does(agent):
    leaf = rows("SELECT partitions.create_task_type_partition('counting')")[0][0]
    task = make_task("counting")
    claim(task, agent.pk)
    expected = outbox()[2:]
    rows("UPDATE tasks.queue SET status = 'queued', worker = NULL")
    empty_outbox()
    rows(
        f"UPDATE {leaf} SET status = 'running', worker = %s, attempt = attempt + 1, started_at = now()",
        agent.pk,
    )
    assert [row[:3] for row in outbox()] == [row[:3] for row in expected]
    rows(f"DELETE FROM {leaf}")
    assert outbox()[-1] == ("TASK_STATE", str(task.pk), "D", None)


def test_giving_a_type_its_leaf_sends_nothing():
    make_task("moving")
    empty_outbox()
    rows("SELECT partitions.create_task_type_partition('moving')")
    assert outbox() == []


@pytest.mark.parametrize("parent", ["tasks.queue", "agents.state", "sessions.active"])
def test_every_leaf_has_the_statement_triggers_of_its_parent(parent):
    rows("SELECT partitions.create_task_type_partition('another type')")
    found = rows(
        "SELECT c.oid::regclass::text, ("
        "   SELECT array_agg(replace(pg_get_triggerdef(t.oid), c.oid::regclass::text, '') ORDER BY t.tgname)"
        "   FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname LIKE 'bridge%%')"
        " FROM pg_class c WHERE c.oid = %s::regclass"
        "  OR c.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = %s::regclass)",
        parent, parent,
    )  # fmt: skip
    triggers = dict(found)
    assert len(triggers) > 1
    assert len(triggers[parent]) >= 4
    for leaf, definitions in triggers.items():
        assert definitions == triggers[parent], (
            f"run partitions.copy_statement_triggers('{parent}', '{leaf}')"
        )


# -- the triggers and reconcile speak of the same thing --------------------------------------------------------
def test_triggers_send_what_reconcile_expects(agent):
    Agent.objects.filter(pk=agent.pk).update(configuration={"x": 1.50})
    state(agent, "a key.", {"n": [1, None]}).save()
    task = Task.objects.create(task_type="echo", priority="high")
    session, _ = open_session(timedelta(hours=1), agent_id=agent.pk, session_data={"n": 1})
    found = rows("SELECT target, key, payload::text FROM bridge.outbox WHERE op = 'U' ORDER BY outbox_id")
    sent = {(target, key): payload for target, key, payload in found}
    keys = {
        "AGENT_CONFIG": str(agent.pk),
        "AGENT_STATE": f"{agent.pk}.a=20key=2E",
        "SESSION_DATA": str(session.pk),
        "TASK_STATE": str(task.pk),
    }
    assert {mirror.bucket for mirror in MIRRORS} == set(keys)
    for mirror in MIRRORS:
        key = keys[mirror.bucket]
        assert read_expected(connection, mirror, [key])[key].payload == sent[mirror.bucket, key]
