"""One batch at a time: what goes out, what stays, and what a crash leaves behind."""

import json
import threading
from dataclasses import replace
from unittest.mock import patch

import pytest
from django.db import OperationalError, transaction

from agents.models import Agent, AgentState, LifecycleEvent
from bridge import connection, delivery, relay, topology
from bridge.batches import COMMIT
from bridge.fence import FENCE
from bridge.models import Conflict, OutboxRow, QuarantinedRow
from bridge.outbox import redrive
from bridge.publisher import BUSY, Outcome
from bridge.relay import FINAL_TRIES, Memory, relay_batch
from bridge.session import open_session
from pg.errors import Unreachable
from tasks.models import Task
from tests.bridge.conftest import delete, empty_outbox, history, look, outbox, put, rows, value, wait_until

pytestmark = pytest.mark.usefixtures("committed", "jetstream", "relay_alone")


@pytest.fixture
def relay_alone():
    """Without the fast path: these tests are about the relay."""
    with patch("bridge.fastpath.push", return_value=0):
        yield


@pytest.fixture(autouse=True)
def nothing_waits(agent):
    empty_outbox()


def drain(session, memory=None):
    """Relay until nothing moves; return the batches."""
    memory, batches = memory or Memory(), []
    while len(batches) < 50 and (not batches or batches[-1].read):
        batches.append(relay_batch(session, memory))
    return batches


def set_state(agent, key, new):
    AgentState.objects.update_or_create(agent=agent, state_key=key, defaults={"state_value": new})


# -- the ordinary way ------------------------------------------------------------------------------------------
def test_rows_reach_their_buckets_and_are_deleted(agent, session):
    set_state(agent, "a", {"x": [1, None]})
    Agent.objects.filter(pk=agent.pk).update(configuration={"depth": 3})
    task = Task.objects.create(task_type="echo")
    batch = relay_batch(session, Memory())
    assert (batch.read, batch.published, batch.doubtful) == (4, 4, 0)
    assert outbox() == []
    assert value("AGENT_STATE", f"{agent.pk}.a") == {"x": [1, None]}
    assert value("AGENT_CONFIG", str(agent.pk))["configuration"] == {"depth": 3}
    assert value("TASK_STATE", str(task.pk))["status"] == "queued"
    assert [json.loads(m.data)["task_id"] for m in history("TASK_EXECUTION")] == [str(task.pk)]


def test_of_many_changes_of_a_key_only_the_newest_is_sent(agent, session):
    for number in range(20):
        set_state(agent, "a", number)
    set_state(agent, "b", "other")
    batch = relay_batch(session, Memory())
    assert (batch.read, batch.replaced, batch.published) == (21, 19, 2)
    assert [json.loads(message.data) for message in history("KV_AGENT_STATE")] == [19, "other"]


def test_the_youngest_values_do_not_wait_for_all_that_is_before_them(agent, session):
    """A save beside a bulk update; an older row of its key, still to come, changes nothing."""
    for number in range(4):
        set_state(agent, f"bulk{number}", number)
    for number in range(3):
        set_state(agent, "a", number)
    Agent.objects.filter(pk=agent.pk).update(status="active")
    memory = Memory()
    with patch("bridge.outbox.YOUNGEST", 1):
        relay_batch(session, memory, limit=1)
        assert [json.loads(message.data) for message in history("KV_AGENT_STATE")] == [0, 2]
        assert value("AGENT_STATE", f"{agent.pk}.a") == 2
        assert history("AGENT_STATE") == []
        while relay_batch(session, memory, limit=1).read:
            pass
    assert [json.loads(m.data) for m in history("KV_AGENT_STATE", f"$KV.AGENT_STATE.{agent.pk}.a")] == [2]
    assert len(history("AGENT_STATE")) == 1
    assert outbox() == []


def test_a_deleted_row_is_a_deleted_key(agent, session):
    set_state(agent, "a", 1)
    drain(session)
    AgentState.objects.all().delete()
    drain(session)
    assert look("AGENT_STATE", f"{agent.pk}.a").is_deleted
    set_state(agent, "a", 2)
    drain(session)
    assert value("AGENT_STATE", f"{agent.pk}.a") == 2


def test_events_are_sent_each_and_in_order(agent, session):
    for status in ("active", "idle", "active", "idle", "active"):
        Agent.objects.filter(pk=agent.pk).update(status=status)
    relay_batch(session, Memory())
    subject = f"agents.lifecycle.{agent.pk}.active"
    sent = history("AGENT_STATE")
    assert len(sent) == 5
    ids = [message.sync_id for message in history("AGENT_STATE", subject)]
    assert ids == sorted(ids)
    assert len(ids) == 3


def test_a_key_that_expired_or_was_purged_is_written_again(agent, session):
    memory = Memory()
    set_state(agent, "a", 1)
    drain(session, memory)
    connection.call(lambda c: c.jetstream.purge_stream("KV_AGENT_STATE"))
    set_state(agent, "a", 2)
    batches = drain(session, memory)
    assert batches[0].doubtful == 1
    assert value("AGENT_STATE", f"{agent.pk}.a") == 2


# -- crashes and doubts ----------------------------------------------------------------------------------------
def crash_before_delete(session, memory=None):
    with (
        patch.object(relay, "delete_rows", side_effect=OperationalError("killed")),
        pytest.raises(OperationalError),
    ):
        relay_batch(session, memory or Memory())


def test_a_crash_between_publish_and_delete_repeats_nothing(agent, session):
    set_state(agent, "a", 1)
    Agent.objects.filter(pk=agent.pk).update(status="active")
    crash_before_delete(session)
    before = [history("KV_AGENT_STATE"), history("AGENT_STATE")]
    assert [len(messages) for messages in before] == [1, 1]
    batches = drain(session)
    assert sum(batch.known for batch in batches) == 2
    assert outbox() == []
    assert [history("KV_AGENT_STATE"), history("AGENT_STATE")] == before


def test_a_crash_after_a_batch_repeats_nothing(agent, session):
    """Values and events of 40 tasks: two streams, a batch each."""
    Task.objects.bulk_create(Task(task_type="echo") for _ in range(40))
    crash_before_delete(session)
    before = [history("KV_TASK_STATE"), history("TASK_EXECUTION")]
    assert [len(messages) for messages in before] == [40, 40]
    assert commits("KV_TASK_STATE") == commits("TASK_EXECUTION") == 1
    assert sum(batch.published for batch in drain(session)) == 0
    assert outbox() == []
    assert [history("KV_TASK_STATE"), history("TASK_EXECUTION")] == before


def commits(stream):
    """Return how many batches a stream holds the end of."""

    async def count(client):
        info = await client.jetstream.stream_info(stream)
        numbers = range(info.state.first_seq, info.state.last_seq + 1)
        found = [await client.jetstream.get_msg(stream, number) for number in numbers]
        return sum(COMMIT in (message.headers or {}) for message in found)

    return connection.call(count, 30)


def test_an_agents_write_in_the_middle_of_a_batch_decides_about_its_own_key_only(agent, session):
    memory = Memory()
    keys = [f"k{number:02}" for number in range(20)]
    AgentState.objects.bulk_create(AgentState(agent=agent, state_key=key, state_value=1) for key in keys)
    drain(session, memory)
    put("AGENT_STATE", f"{agent.pk}.k07", '"of the agent"')
    AgentState.objects.update(state_value=2)
    first = relay_batch(session, memory)
    assert (first.published, first.doubtful) == (19, 1)
    drain(session, memory)
    assert {key: value("AGENT_STATE", f"{agent.pk}.{key}") for key in keys} == dict.fromkeys(keys, 2)


def test_an_old_row_never_replaces_a_newer_value(agent, session):
    """A slow twin still holds a row that its successor has dealt with."""
    set_state(agent, "a", 1)
    old = OutboxRow.objects.values_list("outbox_id", flat=True)[0]
    set_state(agent, "a", 2)
    drain(session)
    rows("INSERT INTO bridge.outbox (outbox_id, target, key, op, payload) OVERRIDING SYSTEM VALUE"
         " VALUES (%s, 'AGENT_STATE', %s, 'U', '1')", old, f"{agent.pk}.a")  # fmt: skip
    assert drain(session)[0].known == 1
    assert value("AGENT_STATE", f"{agent.pk}.a") == 2


def test_a_stale_memory_is_no_danger(agent, session):
    slow = Memory()
    set_state(agent, "a", 1)
    drain(session, slow)
    set_state(agent, "a", 2)
    drain(session, Memory())
    set_state(agent, "a", 3)
    first, *rest = drain(session, slow)
    assert first.doubtful == 1
    assert sum(batch.published for batch in rest) == 1
    assert [json.loads(message.data) for message in history("KV_AGENT_STATE")] == [1, 2, 3]


def late_commit(agent, session, memory_between):
    """Two transactions write an event of one subject; the one with the lower id commits last."""
    inserted, release = threading.Event(), threading.Event()

    def first():
        with open_session() as other, other.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute(
                "INSERT INTO agents.lifecycle_events (agent_id, event_type) VALUES (%s, 'note')", [agent.pk]
            )
            inserted.set()
            release.wait(20)
            cursor.execute("COMMIT")

    thread = threading.Thread(target=first)
    thread.start()
    inserted.wait(20)
    LifecycleEvent.objects.create(agent=agent, event_type="note")
    memory_between(session)
    release.set()
    thread.join(60)


@pytest.fixture
def past_the_window(monkeypatch):
    """As after the stream's duplicate window: the server no longer knows the messages' ids."""
    real = delivery.to_message

    def without_id(row, last):
        message = real(row, last)
        headers = {name: text for name, text in message.headers.items() if name != "Nats-Msg-Id"}
        return replace(message, headers=headers)

    monkeypatch.setattr(delivery, "to_message", without_id)


@pytest.mark.usefixtures("past_the_window")
@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("same_memory", [False, True])
def test_an_event_that_commits_late_is_neither_lost_nor_doubled(agent, session, crash, same_memory):
    memory = Memory()
    late_commit(agent, session, lambda s: crash_before_delete(s, memory) if crash else drain(s, memory))
    assert len(history("AGENT_STATE")) == 1
    drain(session, memory if same_memory else Memory())
    assert outbox() == []
    assert_both_stored_once()


@pytest.mark.usefixtures("past_the_window")
def test_a_late_event_does_not_hide_the_earlier_one_from_a_new_relay(agent, session):
    """The newest message there is of a lower id than the row that is left, and yet that row was stored."""
    late_commit(agent, session, crash_before_delete)
    memory = Memory()
    while len(outbox()) == 2:
        relay_batch(session, memory, limit=1)
    drain(session, Memory())
    assert_both_stored_once()


def assert_both_stored_once():
    stored = [message.sync_id for message in history("AGENT_STATE")]
    assert len(stored) == 2
    assert stored == sorted(stored, reverse=True)


def test_nats_being_away_leaves_every_row(agent, session, own_jetstream):
    memory = Memory()
    set_state(agent, "a", 1)
    own_jetstream.kill()
    with pytest.raises(Unreachable):
        relay_batch(session, memory)
    memory.forget()
    assert len(outbox()) == 1
    own_jetstream.start()
    wait_until(lambda: is_empty(session, memory))
    assert value("AGENT_STATE", f"{agent.pk}.a") == 1


def is_empty(session, memory):
    try:
        return not relay_batch(session, memory).read
    except Unreachable:
        return False


def test_a_missing_stream_is_noticed_and_nothing_is_dropped(agent, session):
    connection.call(lambda c: c.jetstream.delete_stream("KV_AGENT_CONFIG"))
    Agent.objects.filter(pk=agent.pk).update(agent_name="renamed")
    with pytest.raises(Unreachable) as caught:
        relay_batch(session, Memory())
    assert "bridge setup" in caught.value.hint
    assert len(outbox()) == 1


# -- agents write too ------------------------------------------------------------------------------------------
def test_an_agent_s_unseen_value_is_replaced_and_kept(agent, session):
    set_state(agent, "a", 1)
    drain(session)
    revision = put("AGENT_STATE", f"{agent.pk}.a", {"by": "agent"})
    set_state(agent, "a", 2)
    assert sum(batch.conflicts for batch in drain(session)) == 1
    assert value("AGENT_STATE", f"{agent.pk}.a") == 2
    kept = Conflict.objects.get()
    assert (kept.strategy, kept.key, kept.kv_revision) == ("last_write_wins", f"{agent.pk}.a", revision)
    assert (json.loads(kept.kv_value), kept.pg_value) == ({"by": "agent"}, 2)


def test_a_value_that_the_writer_had_seen_is_no_conflict(agent, session):
    revision = put("AGENT_STATE", f"{agent.pk}.a", {"by": "agent"})
    AgentState.objects.create(agent=agent, state_key="a", state_value=2)
    rows("DELETE FROM bridge.outbox")
    rows("UPDATE agents.state SET kv_revision = %s", revision)
    set_state(agent, "a", 3)
    assert sum(batch.conflicts for batch in drain(session)) == 0
    assert value("AGENT_STATE", f"{agent.pk}.a") == 3


def test_deleting_over_an_agent_s_delete_keeps_both_facts(agent, session):
    set_state(agent, "a", 1)
    drain(session)
    delete("AGENT_STATE", f"{agent.pk}.a")
    AgentState.objects.all().delete()
    drain(session)
    kept = Conflict.objects.get()
    assert (kept.kv_value, kept.pg_value) == (None, None)


def test_postgresql_owns_the_other_buckets(agent, session):
    put("AGENT_CONFIG", str(agent.pk), {"by": "somebody"})
    Agent.objects.filter(pk=agent.pk).update(agent_name="renamed")
    drain(session)
    assert value("AGENT_CONFIG", str(agent.pk))["agent_name"] == "renamed"
    assert not Conflict.objects.exists()


# -- quarantine ------------------------------------------------------------------------------------------------
def poison(agent, session):
    """A configuration beyond the bucket's limit, with healthy rows before and behind it."""
    other = Agent.objects.create(agent_type="reader", agent_name="other")
    Agent.objects.filter(pk=agent.pk).update(configuration={"big": "x" * (600 << 10)})
    set_state(agent, "a", 1)
    return other, drain(session)


def test_a_row_that_nats_refuses_is_set_apart_and_other_keys_flow(agent, session):
    other, batches = poison(agent, session)
    assert value("AGENT_CONFIG", str(other.pk))["agent_name"] == "other"
    assert value("AGENT_STATE", f"{agent.pk}.a") == 1
    assert len(batches) == FINAL_TRIES + 1
    assert sum(batch.quarantined for batch in batches) == 1
    apart = QuarantinedRow.objects.get()
    assert (apart.target, apart.key, apart.op, apart.attempts) == (
        "AGENT_CONFIG",
        str(agent.pk),
        "U",
        FINAL_TRIES,
    )
    assert "AGENT_CONFIG takes 524288" in apart.error
    assert outbox() == []


def test_later_rows_of_a_quarantined_key_wait_and_go_when_it_is_sent_again(agent, session):
    poison(agent, session)
    Agent.objects.filter(pk=agent.pk).update(configuration={})
    assert drain(session)[0].read == 0
    assert [key for _, key, _, _ in outbox()] == [str(agent.pk)]
    assert redrive(session, [QuarantinedRow.objects.get().pk]) == 1
    drain(session)
    assert value("AGENT_CONFIG", str(agent.pk))["configuration"] == {}
    assert outbox() == []
    assert not QuarantinedRow.objects.exists()


@pytest.mark.parametrize(
    ("target", "key", "op", "message"),
    [
        ("AGENT_STATE", "a..b", "U", "no subject"),
        ("AGENT_STATE", "a b", "U", "no subject"),
        ("NOWHERE", "a", "U", "NOWHERE"),
        ("TASK_EXECUTION", "tasks.>", "E", "no subject"),
        ("KV_AGENT_STATE", "x", "E", "KV_AGENT_STATE"),
    ],
)
def test_rows_that_can_never_be_stored_say_why(session, target, key, op, message):
    rows("INSERT INTO bridge.outbox (target, key, op, payload) VALUES (%s, %s, %s, '1')", target, key, op)
    drain(session)
    assert message in QuarantinedRow.objects.get().error


def test_what_only_the_server_finds_too_large_is_set_apart_too(agent, session, settings):
    settings.BRIDGE_OVERRIDES = {"AGENT_CONFIG": {"max_value_bytes": 1 << 20}}
    Agent.objects.filter(pk=agent.pk).update(configuration={"big": "x" * (600 << 10)})
    assert topology.buckets()["AGENT_CONFIG"].max_value_bytes == 1 << 20
    drain(session)
    assert "exceeds maximum" in QuarantinedRow.objects.get().error


def test_a_full_bucket_is_no_reason_to_give_a_row_up(agent, session):
    small = topology.buckets()["AGENT_CONFIG"].config(1).evolve(max_bytes=200)
    connection.call(lambda c: c.jetstream.update_stream(small))
    Agent.objects.filter(pk=agent.pk).update(configuration={"x": "y" * 500})
    batches = [relay_batch(session, Memory()) for _ in range(FINAL_TRIES + 2)]
    assert all(batch.doubtful == 1 and "maximum bytes" in batch.trouble for batch in batches)
    assert len(outbox()) == 1
    assert not QuarantinedRow.objects.exists()


def test_another_write_under_way_on_a_cluster_is_no_trouble(agent, session):
    """A server alone never answers so: see tests/faults/test_nats_cluster.py for those that do."""
    Agent.objects.filter(pk=agent.pk).update(configuration={"x": 1})

    async def collide(*_):
        return [Outcome(code=BUSY, text="in flight")]

    with patch.object(relay, "publish_rows", collide):
        batch = relay_batch(session, Memory())
    assert (batch.doubtful, batch.trouble, len(outbox())) == (1, "", 1)
    drain(session)
    assert not outbox()


# -- the fence -------------------------------------------------------------------------------------------------
def test_a_backup_holds_the_relay_and_no_writer(agent, session):
    with open_session([f"SELECT pg_advisory_lock({FENCE})"]):
        set_state(agent, "a", 1)
        batch = relay_batch(session, Memory())
        assert (batch.is_fenced, batch.published) == (True, 0)
        assert len(outbox()) == 1
    assert relay_batch(session, Memory()).published == 1


def test_the_fence_is_let_go_after_each_batch(agent, session):
    set_state(agent, "a", 1)
    relay_batch(session, Memory())
    with open_session() as backup, backup.cursor() as cursor:
        cursor.execute(f"SELECT pg_try_advisory_lock({FENCE})")
        assert cursor.fetchone() == (True,)


def test_rows_of_open_transactions_are_not_seen(agent, session):
    with transaction.atomic():
        set_state(agent, "a", 1)
        assert relay_batch(session, Memory()).read == 0
    assert relay_batch(session, Memory()).read == 1
