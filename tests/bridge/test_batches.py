"""Atomic batches: what goes in one, what its one answer means, and what becomes of it when anything is wrong."""

import asyncio
import os
import signal
from itertools import pairwise

import pytest

from bridge import batches, connection, setup, topology
from bridge.batches import LEAST, MOST, MOST_BYTES, MOST_EVENTS, cut
from bridge.publisher import TOO_LARGE, UNBATCHED, UNKNOWN, WRONG_LAST_SEQUENCE, Message
from tests.bridge.conftest import history, wait_until
from tests.bridge.test_publisher import is_stopped, nats_pid

EXPECTED = "Nats-Expected-Last-Subject-Sequence"
STREAM = "KV_TASK_STATE"


def value(key, data=b"1", expected=0, stream=STREAM):
    return Message(f"$KV.{stream[3:]}.{key}", data, {EXPECTED: str(expected), "Sync-Origin": "pg"}, stream)


def values(number, prefix="k", **kwargs):
    return [value(f"{prefix}{n}", **kwargs) for n in range(number)]


def publish(messages, timeout_seconds=5):
    return connection.call(lambda client: client.publisher.publish(messages, timeout_seconds), 30)


def counts(outcomes):
    return [outcome.count for outcome in outcomes]


def stored(stream=STREAM):
    """Return how many messages the stream ever stored since it was emptied, and holds."""
    return connection.call(lambda c: c.jetstream.stream_info(stream)).state.messages


# -- what goes together ---------------------------------------------------------------------------------------
def lengths(messages):
    return [[len(batch) for batch in lane] for lane in cut(messages)]


@pytest.mark.parametrize(
    ("number", "expected"),
    [(LEAST - 1, []), (LEAST, [[LEAST]]), (MOST + LEAST - 1, [[MOST]]), (MOST + LEAST, [[MOST, LEAST]])],
)
def test_a_few_messages_go_alone(number, expected):
    assert lengths(values(number)) == expected


def test_a_batch_of_events_may_be_larger():
    events = [Message(f"tasks.created.{n}", b"{}", {}, "TASK_EXECUTION") for n in range(MOST_EVENTS + LEAST)]
    assert lengths(events) == [[MOST_EVENTS, LEAST]]


def test_each_stream_has_its_own_batches_and_order():
    mixed = [
        each for n in range(LEAST) for each in (value(f"a{n}"), value(f"b{n}", stream="KV_AGENT_CONFIG"))
    ]
    first, second = cut(mixed)
    assert (list(first[0]), list(second[0])) == (list(range(0, 2 * LEAST, 2)), list(range(1, 2 * LEAST, 2)))


def test_a_message_that_names_no_stream_goes_alone():
    assert cut([Message(f"$KV.TASK_STATE.k{n}") for n in range(LEAST)]) == []


def test_a_subject_is_in_a_batch_once_and_what_follows_keeps_its_order():
    twice = [*values(LEAST), value("k0", expected=1)]
    assert lengths(twice + values(LEAST, "x")) == [[LEAST, LEAST + 1]]
    assert lengths([*twice, value("k0", expected=2), *values(LEAST, "x")]) == [[LEAST]]


def test_large_values_go_alone():
    assert lengths(values(LEAST, data=b"x" * (MOST_BYTES // LEAST))) == [[LEAST]]
    assert lengths(values(LEAST, data=b"x" * (MOST_BYTES // LEAST + 1))) == []


# -- a real server --------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("jetstream")
def test_one_answer_gives_each_message_its_own_sequence():
    outcomes = publish(values(2 * MOST + LEAST + 1))
    assert counts(outcomes) == [MOST] * 2 * MOST + [LEAST + 1] * (LEAST + 1)
    assert all(earlier.sequence + 1 == later.sequence for earlier, later in pairwise(outcomes))
    assert [message.revision for message in history(STREAM)] == [outcome.sequence for outcome in outcomes]


@pytest.mark.usefixtures("jetstream")
def test_what_is_stored_of_a_batch_is_what_was_given_and_a_header_stays_a_line():
    messages = values(LEAST, "line", data=b"1\r\n\xff")
    told = {**messages[0].headers, "traceparent": "one\r\nNats-Rollup: all"}
    messages[0] = Message(messages[0].subject, messages[0].data, told, STREAM)
    assert counts(publish(messages)) == [LEAST] * LEAST
    found = connection.call(lambda c: c.jetstream.get_last_msg(STREAM, messages[0].subject))
    assert found.data == b"1\r\n\xff"
    assert found.headers["traceparent"] == "one Nats-Rollup: all"
    assert found.headers["Sync-Origin"] == "pg"


@pytest.mark.usefixtures("jetstream")
def test_a_wrong_revision_in_the_middle_costs_only_its_own_message():
    """The batch stores nothing; each then goes alone."""
    messages = values(2 * MOST)
    messages[7] = value("k7", expected=999_999)
    outcomes = publish(messages)
    assert [n for n, outcome in enumerate(outcomes) if not outcome.is_stored] == [7]
    assert outcomes[7].code == WRONG_LAST_SEQUENCE
    assert set(counts(outcomes)) == {0}
    assert [message.revision for message in history(STREAM)] == [o.sequence for o in outcomes if o.is_stored]
    kept = [outcome.sequence for outcome in outcomes if outcome.is_stored]
    assert kept == sorted(kept)


@pytest.mark.usefixtures("jetstream")
def test_a_message_that_no_server_takes_costs_only_itself():
    messages = values(LEAST) + values(LEAST, "after")
    messages[3] = value("a..b")
    outcomes = publish(messages)
    assert [n for n, outcome in enumerate(outcomes) if not outcome.is_stored] == [3]
    assert stored() == 2 * LEAST - 1


@pytest.mark.usefixtures("jetstream")
def test_a_value_larger_than_the_stream_takes_costs_only_itself():
    messages = [value(f"k{n}", stream="KV_AGENT_CONFIG") for n in range(LEAST)]
    messages[5] = value("k5", b"x" * (513 << 10), stream="KV_AGENT_CONFIG")
    outcomes = publish(messages)
    assert [outcome.code for outcome in outcomes if not outcome.is_stored] == [TOO_LARGE]
    assert stored("KV_AGENT_CONFIG") == LEAST - 1


@pytest.mark.usefixtures("jetstream")
def test_an_event_that_is_stored_already_is_not_stored_twice():
    def event(n):
        return Message(f"tasks.created.t{n}", b"{}", {"Nats-Msg-Id": f"t{n}"}, "TASK_EXECUTION")

    publish([event(3)])
    outcomes = publish([event(n) for n in range(LEAST)])
    assert all(outcome.is_stored for outcome in outcomes)
    assert stored("TASK_EXECUTION") == LEAST


@pytest.mark.usefixtures("jetstream")
def test_what_goes_in_a_batch_is_republished_and_flushed_as_ever():
    async def send(client):
        heard = asyncio.Queue()
        subscription = await client.nc.subscribe("state.changed.>", cb=heard.put)
        await client.nc.flush()
        await client.publisher.publish(values(LEAST, stream="KV_AGENT_STATE"), 5)
        found = [await asyncio.wait_for(heard.get(), 30) for _ in range(LEAST)]
        await subscription.unsubscribe()
        return [message.data for message in found]

    assert connection.call(send, 60) == [b"1"] * LEAST
    wait_until(lambda: stored("FLUSH_AGENT_STATE") == LEAST)


def test_a_stream_without_the_setting_takes_them_alone_and_setup_turns_it_on(own_jetstream):
    off = topology.buckets()["TASK_STATE"].config(1).evolve(allow_atomic=False)
    connection.call(lambda c: c.jetstream.update_stream(off))
    outcomes = publish(values(LEAST))
    assert all(outcome.is_stored for outcome in outcomes)
    assert set(counts(outcomes)) == {0}
    (step,) = setup.make_plan(setup.read_found())
    assert (step.action, step.object) == ("update", STREAM)
    assert "allow_atomic" in step.why
    setup.apply_plan([step])
    assert set(counts(publish(values(LEAST, "again")))) == {LEAST}


def test_an_older_server_gets_no_batches_and_is_not_told_of_drift(own_jetstream, monkeypatch):
    off = topology.buckets()["TASK_STATE"].config(1).evolve(allow_atomic=False)
    connection.call(lambda c: c.jetstream.update_stream(off))
    monkeypatch.setattr(batches, "SINCE", (99, 0))
    assert setup.make_plan(setup.read_found()) == []
    assert set(counts(publish(values(LEAST)))) == {0}


@pytest.mark.usefixtures("jetstream")
def test_a_server_that_stored_them_one_by_one_leaves_all_in_doubt(monkeypatch):
    """One that knows no batches ignores their headers: the last answer then speaks for its own message only."""
    monkeypatch.setattr(batches, "with_batch", lambda headers, *_: dict(headers))
    assert publish(values(2 * LEAST)) == [UNBATCHED] * 2 * LEAST
    assert stored() == 2 * LEAST


# -- faults ---------------------------------------------------------------------------------------------------
def test_a_batch_whose_end_never_comes_stores_nothing(own_jetstream):
    """Killed between its parts: another one sends the same afterwards."""

    async def send_all_but_the_last(client):
        for number, message in enumerate(values(LEAST - 1), 1):
            headers = batches.with_batch(message.headers, "of-one-who-died", number, False)
            await client.nc.publish(message.subject, message.data, headers=headers)
        await client.nc.flush()

    connection.call(send_all_but_the_last, 10)
    assert stored() == 0
    assert set(counts(publish(values(LEAST)))) == {LEAST}
    assert stored() == LEAST


def test_an_answer_that_is_lost_leaves_all_in_doubt_and_a_second_try_stores_nothing_twice(
    own_jetstream, monkeypatch
):
    async def lose(self, message):
        pass

    with monkeypatch.context() as patched:
        patched.setattr("bridge.publisher.Publisher._resolve", lose)
        connection.close()  # the next one subscribes with the patched callback
        assert publish(values(2 * MOST), 0.5) == [UNKNOWN] * 2 * MOST
    connection.close()
    wait_until(lambda: stored() == MOST)  # the second batch was not even sent
    outcomes = publish(values(2 * MOST))
    assert [outcome.code for outcome in outcomes[:MOST]] == [WRONG_LAST_SEQUENCE] * MOST
    assert all(outcome.is_stored for outcome in outcomes[MOST:])
    assert stored() == 2 * MOST


def test_after_silence_no_further_batch_is_sent(own_jetstream):
    pid = nats_pid(own_jetstream)
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: is_stopped(pid))
    try:
        assert publish(values(3 * MOST), 0.2) == [UNKNOWN] * 3 * MOST
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: stored() == MOST)
