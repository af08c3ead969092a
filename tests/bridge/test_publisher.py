import os
import signal
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from bridge import connection
from bridge.newest import ANSWER_BYTES, read_last, read_sync_ids
from bridge.publisher import BAD_SUBJECT, NO_RESPONDERS, TOO_LARGE, WRONG_LAST_SEQUENCE, Message
from pg.errors import Unreachable
from tests.bridge.conftest import wait_until

pytestmark = pytest.mark.usefixtures("jetstream")
EXPECTED = "Nats-Expected-Last-Subject-Sequence"


def publish(*messages):
    return connection.call(lambda client: client.publisher.publish(messages, 5), 30)


def test_every_answer_of_the_server_is_an_outcome_in_order():
    outcomes = publish(
        Message("$KV.AGENT_CONFIG.a", b"1"),
        Message("$KV.AGENT_CONFIG.a", b"2", {EXPECTED: "999999"}),
        Message("nobody.listens.here", b"3"),
        Message("$KV.AGENT_CONFIG.b..c", b"4"),
        Message("$KV.AGENT_CONFIG.big", b"x" * (513 << 10)),
        Message("$KV.AGENT_CONFIG.huge", b"x" * (5 << 20)),
        Message("$KV.AGENT_CONFIG.z", b"5"),
    )
    codes = [outcome.code for outcome in outcomes]
    assert codes == [None, WRONG_LAST_SEQUENCE, NO_RESPONDERS, BAD_SUBJECT, TOO_LARGE, TOO_LARGE, None]
    assert [outcome.is_stored for outcome in outcomes] == [True, False, False, False, False, False, True]
    assert outcomes[6].sequence == outcomes[0].sequence + 1


def test_thousands_of_messages_keep_their_order_and_can_be_read_at_once():
    messages = [Message(f"$KV.TASK_STATE.k{n}", str(n).encode(), {"Sync-Id": str(n)}) for n in range(2_500)]
    outcomes = publish(*messages)
    assert all(earlier.sequence + 1 == later.sequence for earlier, later in pairwise(outcomes))
    subjects = [message.subject for message in messages] + ["$KV.TASK_STATE.absent"]
    found = connection.call(lambda client: read_last(client.nc, "KV_TASK_STATE", subjects, 5), 30)
    assert {subject: (last.sync_id, last.data) for subject, last in found.items()} == {
        message.subject: (n, message.data) for n, message in enumerate(messages)
    }


def test_values_larger_than_one_answer_are_read_completely():
    value = b"x" * (1 << 19)
    subjects = [f"$KV.AGENT_STATE.k{n}" for n in range(2 * ANSWER_BYTES // len(value) + 1)]
    publish(*(Message(subject, value) for subject in subjects))
    found = connection.call(lambda client: read_last(client.nc, "KV_AGENT_STATE", subjects, 10), 60)
    assert set(found) == set(subjects)


def test_a_few_subjects_are_read_one_by_one_and_say_the_same_as_a_batch(monkeypatch):
    publish(
        Message("$KV.AGENT_STATE.a", b"1", {"Sync-Id": "7", "Sync-Origin": "pg"}),
        Message("$KV.AGENT_STATE.b", b"2"),
        Message("$KV.AGENT_STATE.c", b"", {"KV-Operation": "DEL"}),
    )
    subjects = [f"$KV.AGENT_STATE.{key}" for key in ("a", "b", "c", "absent", "no subject")]

    def read():
        return connection.call(lambda client: read_last(client.nc, "KV_AGENT_STATE", subjects, 5))

    one_by_one = read()
    monkeypatch.setattr("bridge.newest.FEW", 0)
    assert one_by_one == read()
    assert [last.data for last in one_by_one.values()] == [b"1", b"2", b""]


def test_all_outbox_ids_of_a_subject_are_found():
    publish(*(Message("agents.lifecycle.x.active", b"", {"Sync-Id": str(n)}) for n in range(1, 1_205)))
    publish(
        Message("agents.lifecycle.x.active"), Message("agents.lifecycle.y.active", b"", {"Sync-Id": "9999"})
    )
    found = connection.call(lambda c: read_sync_ids(c.nc, "AGENT_STATE", "agents.lifecycle.x.active", 5), 30)
    assert found == set(range(1, 1_205))


def test_a_missing_stream_says_what_to_do():
    with pytest.raises(Unreachable) as caught:
        connection.call(lambda client: read_last(client.nc, "KV_NOTHING", ["$KV.NOTHING.a"], 5))
    assert "bridge setup" in caught.value.hint


def test_nobody_knows_what_becomes_of_a_message_without_answer(own_jetstream):
    """A stopped server keeps its connections open and says nothing."""
    pid = nats_pid(own_jetstream)
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: is_stopped(pid))
    try:
        (outcome,) = connection.call(
            lambda client: client.publisher.publish([Message("$KV.AGENT_CONFIG.a")], 0.2), 5
        )
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (outcome.sequence, outcome.code) == (None, None)


def is_stopped(pid):
    """Tell whether every thread has stopped: the signal reaches them one after the other."""
    states = [
        (task / "stat").read_text().rpartition(")")[2].split()[0]
        for task in Path(f"/proc/{pid}/task").iterdir()
    ]
    return set(states) == {"T"}


def nats_pid(running):
    family = [
        running.process.pid,
        *(child.pid for child in psutil.Process(running.process.pid).children(recursive=True)),
    ]
    return next(pid for pid in family if psutil.Process(pid).name() == "nats-server")
