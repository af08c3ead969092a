"""The loop: leading, standing by, waking up, and outages."""

import threading
import time
from contextlib import contextmanager
from unittest.mock import patch

import pytest
from django.db import connection as db

from agents.models import Agent, AgentState
from bridge import connection, fence
from bridge.relay import Batch
from bridge.runner import BUSY_MESSAGES, WORK_SECONDS, Relay, due_for_work, has_more, polls_after
from tasks.enqueue import enqueue
from tests.bridge.conftest import empty_outbox, history, outbox, rows, value, wait_until

pytestmark = pytest.mark.usefixtures("committed")


@pytest.fixture(autouse=True)
def relay_alone():
    with patch("bridge.fastpath.push", return_value=0):
        yield


@contextmanager
def running(relay):
    thread = threading.Thread(target=relay.run)
    thread.start()
    try:
        yield relay
    finally:
        relay.stop()
        thread.join(30)
        assert not thread.is_alive()


def write(agent, key, new):
    AgentState.objects.update_or_create(agent=agent, state_key=key, defaults={"state_value": new})


def is_there(agent, key, new):
    return lambda: value("AGENT_STATE", f"{agent.pk}.{key}") == new


def test_a_relay_moves_what_is_committed_and_stops_when_told(jetstream, agent):
    with running(Relay()):
        wait_until(lambda: fence.has_leader(db))
        write(agent, "a", 1)
        wait_until(is_there(agent, "a", 1))
        wait_until(lambda: not outbox())
    wait_until(lambda: not fence.has_leader(db))  # the server ends a session a moment after its client has


def test_raw_sql_is_found_by_the_poll(jetstream, agent):
    with running(Relay()):
        rows("INSERT INTO agents.state (agent_id, state_key, state_value) VALUES (%s, 'a', '1')", agent.pk)
        wait_until(is_there(agent, "a", 1))


def test_a_commit_wakes_the_relay_long_before_its_poll(jetstream, agent):
    with running(Relay(poll_seconds=60)) as relay:
        wait_until(lambda: relay.is_leading and not outbox())
        write(agent, "a", 1)
        wait_until(is_there(agent, "a", 1))


def test_enqueued_work_is_fetched_soon_however_far_the_poll(jetstream):
    with running(Relay(poll_seconds=60)) as relay:
        wait_until(lambda: relay.is_leading and not outbox())
        task_id = enqueue("echo")
        wait_until(lambda: (value("TASK_STATE", str(task_id)) or {}).get("status") == "queued")


def test_work_is_fetched_when_it_is_told_of_or_a_little_later_where_a_batch_is_just_over():
    least, most = WORK_SECONDS
    assert due_for_work(started=0.0, told=least) == least
    assert due_for_work(started=0.0, told=least / 2) == most


def test_a_poll_is_left_out_while_many_messages_come_within_one():
    assert polls_after(Batch(read=BUSY_MESSAGES - 1)) == 1
    assert polls_after(Batch(read=BUSY_MESSAGES)) == 2


@pytest.mark.parametrize(
    ("batch", "goes_on"),
    [
        (Batch(read=9, done_ids=[1]), False),
        (Batch(read=10, done_ids=[1]), True),
        (Batch(read=9, done_ids=[1], doubtful=1), True),
        (Batch(read=10, doubtful=10), False),
    ],
)
def test_a_relay_goes_on_at_once_while_rows_are_left_that_move(batch, goes_on):
    assert has_more(batch, limit=10) is goes_on


def test_one_relay_leads_and_another_takes_over(jetstream, agent):
    with running(Relay()) as first:
        wait_until(lambda: first.is_leading)
        with running(Relay()) as second:
            write(agent, "a", 1)
            wait_until(is_there(agent, "a", 1))
            assert not second.is_leading
            first.stop()
            wait_until(lambda: second.is_leading)
            write(agent, "a", 2)
            wait_until(is_there(agent, "a", 2))


def test_a_leader_whose_session_is_cut_stands_for_election_again(jetstream, agent):
    with running(Relay()) as relay:
        wait_until(lambda: relay.is_leading)
        rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'mistersmith relay'"
             " AND datname = current_database()")  # fmt: skip
        write(agent, "a", 1)
        wait_until(is_there(agent, "a", 1))
        wait_until(lambda: relay.is_leading)


def test_nothing_is_lost_while_nats_is_away(own_jetstream, agent, caplog):
    with running(Relay()) as relay:
        wait_until(lambda: relay.is_leading and not outbox())
        own_jetstream.kill()
        wait_until(lambda: not connection.link().is_connected())
        for number in range(50):
            write(agent, f"k{number % 10}", number)
            Agent.objects.filter(pk=agent.pk).update(status="active" if number % 2 else "idle")
        assert len(outbox()) == 100
        wait_until(lambda: [r for r in caplog.records if "relay waits" in r.message])
        own_jetstream.start()
        wait_until(lambda: not outbox())
    assert [value("AGENT_STATE", f"{agent.pk}.k{n}") for n in range(10)] == list(range(40, 50))
    events = [message.sync_id for message in history("AGENT_STATE") if message.sync_id]
    assert len(events) == len(set(events)) == 51
    assert len([r for r in caplog.records if "relay waits" in r.message]) <= 3


def test_a_wiped_jetstream_gets_its_buckets_back(own_jetstream, agent):
    with running(Relay()) as relay:
        wait_until(lambda: relay.is_leading and not outbox())
        connection.call(lambda c: c.jetstream.delete_stream("KV_AGENT_STATE"))
        write(agent, "a", 1)
        wait_until(lambda: not outbox())
    assert value("AGENT_STATE", f"{agent.pk}.a") == 1


def test_batches_keep_their_distance(jetstream, agent):
    empty_outbox()
    for number in range(4):
        rows("INSERT INTO bridge.outbox (target, key, op) VALUES ('AGENT_CONFIG', %s, 'D')", str(number))
    started = time.monotonic()
    with patch("bridge.outbox.YOUNGEST", 0), running(Relay(gap_seconds=0.2, batch_rows=1)):
        wait_until(lambda: not outbox())
    assert time.monotonic() - started >= 0.6
