"""One batch of what agents wrote, into PostgreSQL: what wins, what waits, what is set apart."""

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from unittest.mock import MagicMock

import pytest
from django.db import OperationalError

from agents.models import Agent, AgentState
from bridge import connection, flusher, setup
from bridge.changes import Letter
from bridge.flusher import flush_batch, read_batch, write_batch
from bridge.jobs import purge_tombstones_job
from bridge.models import Conflict, DeadLetter
from bridge.relay import Memory, relay_batch
from bridge.session import execute, keep_statements, open_session
from bridge.sources import note_epochs
from bridge.targets import TARGETS
from sessions.lifecycle import open_session as open_agent_session
from sessions.lifecycle import revoke
from sessions.models import Session
from tests.bridge.conftest import empty_outbox, outbox, rows, value, wait_until
from tests.bridge.flushing import epoch, flush, pull, pulling, state, write

pytestmark = pytest.mark.usefixtures("committed", "jetstream", "relay_alone")


@pytest.fixture
def relay_alone(monkeypatch):
    """Without the fast path: when PostgreSQL's writes reach KV is for the tests to say."""
    monkeypatch.setattr("bridge.fastpath.push", lambda *_: 0)


@pytest.fixture(autouse=True)
def nothing_waits(agent, session):
    note_epochs(session, setup.read_found().created)
    empty_outbox()


def relay(session, memory=None):
    memory = memory or Memory()
    while relay_batch(session, memory).read:
        pass


def put(agent, key, data=None, **options):
    return write("AGENT_STATE", f"{agent.pk}.{key}", data, **options)


def position(agent, key):
    return rows("SELECT kv_revision FROM agents.state WHERE agent_id = %s AND state_key = %s", agent.pk, key)[
        0
    ][0]


# -- the ordinary way ------------------------------------------------------------------------------------------
def test_what_agents_wrote_is_in_postgresql_with_its_position_and_is_not_sent_back(agent, session):
    put(agent, "a", {"x": [1, None]})
    last = put(agent, "user=20name", None)
    done = flush(session)
    assert (done.read, done.applied, done.dead) == (2, 2, 0)
    assert state(agent) == {"a": {"x": [1, None]}, "user name": None}
    assert position(agent, "user name") == last
    assert rows("SELECT DISTINCT kv_epoch FROM agents.state") == [(epoch("AGENT_STATE"),)]
    assert outbox() == []


def test_of_many_writes_of_a_key_the_newest_is_applied(agent, session):
    for number in range(5):
        put(agent, "a", number)
    done = flush(session)
    assert (done.read, done.applied, done.replaced) == (5, 1, 4)
    assert state(agent) == {"a": 4}
    assert rows("SELECT version FROM agents.state") == [(1,)]


def test_the_same_messages_again_change_nothing(agent, session):
    put(agent, "a", 1)
    with pulling("AGENT_STATE") as puller:
        letters = pull(puller)
    assert flush_batch(session, TARGETS["AGENT_STATE"], letters).applied == 1
    put(agent, "a", 2)
    assert flush(session).applied == 1
    before = rows("SELECT version, updated_at FROM agents.state")
    assert flush_batch(session, TARGETS["AGENT_STATE"], letters).stale == 1
    assert state(agent) == {"a": 2}
    assert rows("SELECT version, updated_at FROM agents.state") == before


def test_the_key_that_fences_is_no_state(agent, session):
    put(agent, "=epoch", {"epoch": 2})
    done = flush(session)
    assert (done.own, done.dead, state(agent)) == (1, 0, {})


def test_two_flushers_with_batches_in_the_wrong_order_end_at_the_newer_value(agent, session):
    put(agent, "a", "old")
    put(agent, "a", "new")
    with pulling("AGENT_STATE") as puller:
        old, new = pull(puller)
    flush_batch(session, TARGETS["AGENT_STATE"], [new])
    assert flush_batch(session, TARGETS["AGENT_STATE"], [old]).stale == 1
    assert state(agent) == {"a": "new"}


def test_a_time_to_live_is_the_row_s_expiry_and_a_plain_write_lifts_it(agent, session):
    put(agent, "a", 1, Nats_TTL="1h")
    flush(session)
    seconds = rows("SELECT extract(epoch FROM expires_at - now()) FROM agents.state")[0][0]
    assert 3500 < seconds <= 3600
    put(agent, "a", 2)
    flush(session)
    assert rows("SELECT expires_at FROM agents.state") == [(None,)]


def test_a_value_that_ran_out_before_it_was_flushed_is_no_poison(agent, session):
    put(agent, "a", 1, Nats_TTL="1s")
    time.sleep(1.1)
    assert flush(session).dead == 0
    assert rows("SELECT expires_at <= now() FROM agents.state") == [(True,)]


# -- plans -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bucket", TARGETS)
def test_kept_plans_never_go_through_a_copy_of_a_table(agent, bucket):
    """A plan that was made while the tombstones were few compared each of 2,000 keys with each of them."""
    target = TARGETS[bucket]
    key = f"{agent.pk}.a" if bucket == "AGENT_STATE" else str(agent.pk)
    with open_session() as db:
        keep_statements(db)
        write_batch(db, target, read_batch(target, [letter_of(bucket, key)]))
        for what in ("lock", "flush"):
            kinds = {node["Node Type"] for node in nodes_of(explain_kept(db, target.query(what)))}
            assert not kinds & {"Materialize", "Memoize", "Hash", "Bitmap Heap Scan"}, what


def test_rows_are_locked_without_pruning_at_run_time_and_changed_with_it(agent, session, monkeypatch):
    """Locking may look at a row anew, which PostgreSQL 18 gets wrong with pruning; changing what is locked does not."""
    kept, noted = flusher.execute_bound, []

    def note(db, statement, parameters):
        noted.extend(execute(db, "SHOW enable_partition_pruning")[0])
        return kept(db, statement, parameters)

    put(agent, "a", 1)
    monkeypatch.setattr(flusher, "execute_bound", note)
    assert flush(session).applied == 1
    assert noted == ["off", "on"]
    assert execute(session, "SHOW enable_partition_pruning") == [("on",)]  # of the session, as it was


def letter_of(bucket, key):
    headers = {"Nats-Stream-Source": f"KV_{bucket} 1 > > $KV.{bucket}.{key}"}
    return Letter(f"$KV.{bucket}.{key}", b"1", headers, 1, 1, datetime.now(UTC))


def explain_kept(db, statement):
    """The plan that the session keeps of a statement."""
    beginning = statement.split("%(")[0]
    [(name, types)] = execute(
        db,
        "SELECT name, parameter_types::text[] FROM pg_prepared_statements WHERE starts_with(statement, %s)",
        [beginning],
    )
    nulls = ", ".join("NULL" for _ in types)
    return execute(db, f"EXPLAIN (FORMAT JSON) EXECUTE {name} ({nulls})")[0][0][0]["Plan"]


def nodes_of(node):
    yield node
    for below in node.get("Plans", ()):
        yield from nodes_of(below)


# -- deletes ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("operation", ["DEL", "PURGE"])
def test_an_explicit_delete_deletes_the_row_and_an_older_write_does_not_bring_it_back(
    agent, session, operation
):
    put(agent, "a", 1)
    with pulling("AGENT_STATE") as puller:
        old = pull(puller)
    flush_batch(session, TARGETS["AGENT_STATE"], old)
    put(agent, "a", operation=operation)
    flush(session)
    assert state(agent) == {}
    assert flush_batch(session, TARGETS["AGENT_STATE"], old).stale == 1
    assert state(agent) == {}
    put(agent, "a", 2)
    flush(session)
    assert state(agent) == {"a": 2}
    assert outbox() == []


def test_a_value_that_expires_in_kv_stays_in_postgresql(agent, session):
    put(agent, "a", 1)
    flush(session)
    write("AGENT_STATE", f"{agent.pk}.a", b"", Nats_Marker_Reason="MaxAge")
    assert flush(session).own == 1
    assert state(agent) == {"a": 1}


def test_an_older_write_does_not_bring_back_what_postgresql_deleted(agent, session):
    put(agent, "a", 1)
    with pulling("AGENT_STATE") as puller:
        old = pull(puller)
    flush_batch(session, TARGETS["AGENT_STATE"], old)
    AgentState.objects.all().delete()
    relay(session)
    assert flush_batch(session, TARGETS["AGENT_STATE"], old).stale == 1
    assert state(agent) == {}
    AgentState.objects.create(agent=agent, state_key="a", state_value="mine")
    relay(session)
    assert flush_batch(session, TARGETS["AGENT_STATE"], old).stale == 1
    assert state(agent) == {"a": "mine"}


def test_postgresql_s_own_delete_passing_by_leaves_a_later_row_alone(agent, session):
    for number in range(2):
        AgentState.objects.create(agent=agent, state_key="a", state_value=number)
        relay(session)
        if not number:
            AgentState.objects.all().delete()
            relay(session)
    wait_until(lambda: value("AGENT_STATE", f"{agent.pk}.a") == 1)
    flush(session)
    assert state(agent) == {"a": 1}


# -- beside writes from PostgreSQL -----------------------------------------------------------------------------
def test_a_key_with_a_write_on_its_way_waits_for_the_relay(agent, session):
    put(agent, "a", "agent")
    AgentState.objects.create(agent=agent, state_key="a", state_value="operator")
    done = flush(session)
    assert (done.applied, len(done.waiting)) == (0, 1)
    assert state(agent) == {"a": "operator"}
    relay(session)  # last write wins
    assert flush_batch(session, TARGETS["AGENT_STATE"], done.waiting).stale == 1
    assert state(agent) == {"a": "operator"}
    assert value("AGENT_STATE", f"{agent.pk}.a") == "operator"


def test_a_writer_who_has_the_row_now_is_waited_for(agent, session):
    AgentState.objects.create(agent=agent, state_key="a", state_value=0)
    relay(session)
    put(agent, "a", "agent")
    with open_session() as operator, pulling("AGENT_STATE") as puller:
        letters = pull(puller)
        execute(operator, "BEGIN")
        execute(operator, "UPDATE agents.state SET state_value = '\"operator\"'")
        found = []
        flushing = threading.Thread(target=lambda: found.append(flush_alone(letters)))
        flushing.start()
        wait_until(lambda: rows("SELECT 1 FROM pg_locks WHERE NOT granted"))
        execute(operator, "COMMIT")
        flushing.join(30)
    assert len(found[0].waiting) == 1
    assert state(agent) == {"a": "operator"}


def test_a_row_that_comes_up_after_the_locks_is_left_alone_without_waiting(agent, session, monkeypatch):
    """Another one is writing it at this moment: PostgreSQL must not look at it anew (decision 0020)."""
    kept = flusher.execute_bound

    def lock_too_early(db, statement, parameters):
        locked = kept(db, statement, parameters)
        if "FOR NO KEY UPDATE" in statement:
            execute(
                operator,
                "INSERT INTO agents.state (agent_id, state_key, state_value) VALUES (%s, 'a', '0')",
                [agent.pk],
            )
            execute(operator, "DELETE FROM bridge.outbox")
            execute(operator, "BEGIN")
            execute(operator, "UPDATE agents.state SET state_value = '\"operator\"'")
        return locked

    put(agent, "a", "agent")
    with open_session() as operator, pulling("AGENT_STATE") as puller:
        letters = pull(puller)
        monkeypatch.setattr(flusher, "execute_bound", lock_too_early)
        done = flush_alone(letters)
        execute(operator, "COMMIT")
    assert len(done.waiting) == 1
    assert state(agent) == {"a": "operator"}


def flush_alone(letters):
    with open_session() as own:
        return flush_batch(own, TARGETS["AGENT_STATE"], letters)


def test_a_row_that_comes_up_while_the_flusher_inserts_is_not_overwritten(agent, session):
    put(agent, "a", "agent")
    with open_session() as operator, pulling("AGENT_STATE") as puller:
        letters = pull(puller)
        execute(operator, "BEGIN")
        execute(
            operator,
            "INSERT INTO agents.state (agent_id, state_key, state_value) VALUES (%s, 'a', '\"operator\"')",
            [agent.pk],
        )
        found = []
        flushing = threading.Thread(target=lambda: found.append(flush_alone(letters)))
        flushing.start()
        wait_until(lambda: rows("SELECT 1 FROM pg_locks WHERE NOT granted"))
        execute(operator, "COMMIT")
        flushing.join(30)
    assert len(found[0].waiting) == 1
    assert state(agent) == {"a": "operator"}


# -- epochs ----------------------------------------------------------------------------------------------------
def test_a_write_of_an_older_epoch_is_refused_kept_and_taken_back_in_kv(agent, session):
    put(agent, "a", "successor", Agent_Epoch="1")
    flush(session)
    Agent.objects.filter(pk=agent.pk).update(epoch=2)
    empty_outbox()
    last = put(agent, "a", "zombie", Agent_Epoch="1")
    done = flush(session)
    assert (done.applied, done.fenced) == (0, 1)
    assert state(agent) == {"a": "successor"}
    relay(session)
    assert value("AGENT_STATE", f"{agent.pk}.a") == "successor"
    kept = Conflict.objects.get()
    assert (kept.strategy, kept.winner, kept.kv_revision) == ("fenced", "postgresql", last)
    assert (json.loads(kept.kv_value), kept.pg_value) == ("zombie", "successor")
    put(agent, "a", "again", Agent_Epoch="2")
    assert flush(session).applied == 1


def test_a_new_key_of_an_older_epoch_is_deleted_in_kv(agent, session):
    Agent.objects.filter(pk=agent.pk).update(epoch=2)
    empty_outbox()
    put(agent, "b", "zombie", Agent_Epoch="1")
    assert flush(session).fenced == 1
    relay(session)
    assert (state(agent), value("AGENT_STATE", f"{agent.pk}.b")) == ({}, None)


def test_a_zombie_s_value_that_a_successor_replaced_is_not_taken_back(agent, session):
    Agent.objects.filter(pk=agent.pk).update(epoch=2)
    empty_outbox()
    put(agent, "a", "zombie", Agent_Epoch="1")
    assert flush(session).fenced == 1
    put(agent, "a", "successor", Agent_Epoch="2")
    relay(session)
    assert flush(session).applied == 1
    assert (state(agent), value("AGENT_STATE", f"{agent.pk}.a")) == ({"a": "successor"}, "successor")


# -- poison ----------------------------------------------------------------------------------------------------
BAD = {
    "no JSON": b"{not json",
    "a NUL": b'"\\u0000"',
    "a byte NUL": b'"\x00"',
    "no UTF-8": b"\xff",
    "NaN": b"NaN",
    "nothing": b"",
    "too deep": b"[" * 20_000 + b"]" * 20_000,
}


def test_bad_values_are_set_apart_and_all_others_go_in(agent, session):
    for number, data in enumerate(BAD.values()):
        put(agent, f"good{number}", number)
        put(agent, f"bad{number}", data)
    done = flush(session)
    assert (done.applied, done.dead) == (len(BAD), len(BAD))
    assert state(agent) == {f"good{number}": number for number in range(len(BAD))}
    letters = DeadLetter.objects.order_by("stream_sequence")
    assert [bytes(letter.payload) for letter in letters] == list(BAD.values())
    assert all(letter.error and letter.attempts == 1 for letter in letters)
    assert letters[0].subject == f"$KV.AGENT_STATE.{agent.pk}.bad0"
    assert (letters[0].consumer, letters[0].stream) == ("flusher", "FLUSH_AGENT_STATE")


def test_a_good_write_before_a_bad_one_of_its_key_goes_in(agent, session):
    put(agent, "a", "good")
    put(agent, "a", b"{")
    done = flush(session)
    assert (done.applied, done.dead, state(agent)) == (1, 1, {"a": "good"})


@pytest.mark.parametrize(
    ("key", "error"),
    [
        ("no-uuid.a", "is no key of AGENT_STATE"),
        ("alone", "is no key of AGENT_STATE"),
        ("00000000-0000-7000-8000-0000000000ff.a", "no such agent"),
        ("{agent}.a=20b=", "is no key of AGENT_STATE"),
        ("{agent}." + "k" * 256, "too long"),
    ],
)
def test_keys_that_no_row_could_have_are_set_apart(agent, session, key, error):
    write("AGENT_STATE", key.format(agent=agent.pk), 1)
    assert flush(session).dead == 1
    assert error in DeadLetter.objects.get().error


def test_poison_that_comes_again_is_counted_not_doubled(agent, session):
    put(agent, "a", b"{")
    with pulling("AGENT_STATE") as puller:
        letters = pull(puller)
    for _ in range(2):
        flush_batch(session, TARGETS["AGENT_STATE"], letters)
    assert DeadLetter.objects.get().attempts == 2


def test_when_the_server_fails_nothing_of_the_batch_is_in(agent, session, monkeypatch):
    put(agent, "a", 1)
    put(agent, "b", b"{")
    monkeypatch.setattr("bridge.flusher.bury", MagicMock(side_effect=OperationalError("gone")))
    with pytest.raises(OperationalError):
        flush(session)
    assert (state(agent), DeadLetter.objects.count()) == ({}, 0)


# -- sessions --------------------------------------------------------------------------------------------------
@pytest.fixture
def opened(agent):
    session, _ = open_agent_session(timedelta(hours=1), agent_id=agent.pk, session_data={"step": 1})
    return session


def data_of(opened):
    return Session.objects.values_list("session_data", flat=True).get(pk=opened.pk)


def test_a_session_s_data_comes_from_kv_and_its_delete_empties_it(opened, session):
    relay(session)
    write("SESSION_DATA", str(opened.pk), {"step": 2})
    assert flush(session, "SESSION_DATA").applied == 1
    assert data_of(opened) == {"step": 2}
    write("SESSION_DATA", str(opened.pk), operation="DEL")
    assert flush(session, "SESSION_DATA").applied == 1
    assert data_of(opened) == {}
    assert outbox() == []


def test_data_for_a_session_that_ended_is_dropped_here_and_in_kv(opened, session):
    relay(session)
    revoke([opened.pk])
    relay(session)
    write("SESSION_DATA", str(opened.pk), {"step": 2})
    done = flush(session, "SESSION_DATA")
    assert (done.applied, done.ended, done.dead) == (0, 1, 0)
    relay(session)
    assert value("SESSION_DATA", str(opened.pk)) is None
    assert flush(session, "SESSION_DATA").own == 0
    assert (outbox(), DeadLetter.objects.count()) == ([], 0)


def test_a_session_s_data_that_is_on_its_way_to_kv_wins_as_the_last_write(opened, session):
    relay(session)
    write("SESSION_DATA", str(opened.pk), {"by": "agent"})
    Session.objects.filter(pk=opened.pk).update(session_data={"by": "operator"})
    assert len(flush(session, "SESSION_DATA").waiting) == 1
    relay(session)
    assert value("SESSION_DATA", str(opened.pk)) == {"by": "operator"}
    assert data_of(opened) == {"by": "operator"}


def test_an_older_epoch_writes_no_session_data(agent, opened, session):
    relay(session)
    Agent.objects.filter(pk=agent.pk).update(epoch=2)
    empty_outbox()
    write("SESSION_DATA", str(opened.pk), {"by": "zombie"}, Agent_Epoch="1")
    assert flush(session, "SESSION_DATA").fenced == 1
    relay(session)
    assert value("SESSION_DATA", str(opened.pk)) == data_of(opened) == {"step": 1}


def test_the_link_is_closed_without_a_trace():
    """A puller that is stopped leaves no subscription behind."""
    with pulling("AGENT_STATE"):
        inside = len(connection.call(subscriptions))
    assert len(connection.call(subscriptions)) == inside - 1


async def subscriptions(client):
    return list(client.nc._subs)


def test_tombstones_are_purged_when_no_write_can_be_older(session):
    rows(
        "INSERT INTO bridge.tombstones (bucket, key, kv_epoch, kv_revision, deleted_at) VALUES"
        " ('AGENT_STATE', 'old', 1, 1, now() - interval '7 days 2 hours'),"
        " ('AGENT_STATE', 'young', 1, 1, now() - interval '7 days')"
    )
    assert purge_tombstones_job() == 1
    assert rows("SELECT key FROM bridge.tombstones") == [("young",)]
