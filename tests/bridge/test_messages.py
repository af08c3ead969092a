"""Messages on their way out: which subject, which event, and how large."""

import json

import pytest

from agents.registry import register_agent
from bridge.delivery import ABSENT, to_message, trace_of
from bridge.models import Op
from bridge.outbox import Row
from bridge.relay import Memory, relay_batch
from messaging.channels import create_channel, subscribe
from messaging.send import send
from tests.bridge.conftest import history, outbox, rows


@pytest.fixture
def pair(db):
    ann, bob = register_agent("planner", "ann").pk, register_agent("reader", "bob").pk
    rows("DELETE FROM bridge.outbox")
    return ann, bob


def sent():
    return [
        (key, payload) for target, key, op, payload in outbox() if (target, op) == ("AGENT_MESSAGES", "E")
    ]


def subject_of(**options):
    rows("DELETE FROM bridge.outbox")
    send({"n": 1}, **options)
    [(subject, _)] = sent()
    return subject


def test_each_route_has_its_subject(pair):
    ann, bob = pair
    for name, kind in (
        ("t", "topic"),
        ("b", "broadcast"),
        ("q", "queue"),
        ("desk", "direct"),
        ("a b.c", "topic"),
    ):
        create_channel(name, kind)
    subscribe(bob, "desk")
    assert subject_of(to_agent=bob, from_agent=ann) == f"messages.direct.{ann}.{bob}"
    assert subject_of(to_agent=bob) == f"messages.direct.system.{bob}"
    assert subject_of(broadcast_to_type="reader") == "messages.notification.reader"
    assert (
        subject_of(broadcast_to_type="reader", from_agent=ann, message_type="command")
        == f"messages.broadcast.{ann}"
    )
    assert subject_of(channel="b", from_agent=ann) == f"messages.broadcast.{ann}"
    assert subject_of(channel="q") == "messages.queue.q"
    assert subject_of(channel="desk", from_agent=ann) == f"messages.direct.{ann}.desk"
    assert subject_of(channel="t", subject="x.y") == "messages.topic.t.x.y"
    assert subject_of(channel="a b.c", subject="ü") == "messages.topic.a=20b=2Ec.=C3=BC"


def test_the_event_carries_the_message(pair):
    ann, bob = pair
    made = send({"n": 1}, to_agent=bob, from_agent=ann, message_type="query", subject="sum", priority=3)
    [(_, event)] = sent()
    assert (event["message_id"], event["correlation_id"]) == (str(made.message_id),) * 2
    assert (event["payload"], event["subject"], event["priority"]) == ({"n": 1}, "sum", 3)


def test_many_messages_of_one_statement_are_many_events(pair):
    rows(
        "INSERT INTO messages.log (to_agent_id, message_type) SELECT %s, 'command' FROM generate_series(1, 3)",
        pair[1],
    )
    assert len(sent()) == 3


def test_a_heartbeat_without_a_route_is_no_event(pair):
    rows("INSERT INTO messages.log (message_type) VALUES ('heartbeat')")
    assert sent() == []


@pytest.mark.parametrize(("size", "is_reference"), [(250 * 1024, False), (256 * 1024, True)])
def test_what_the_stream_cannot_hold_goes_out_as_a_reference(pair, size, is_reference):
    made = send("x" * size, to_agent=pair[1])
    [(_, event)] = sent()
    assert ("is_reference" in event, "payload" in event) == (is_reference, not is_reference)
    assert event["message_id"] == str(made.message_id)
    assert len(json.dumps(event)) < 256 * 1024


def test_what_is_not_kept_goes_out_too_and_is_not_logged(pair):
    ann, bob = pair
    made = send({"n": 1}, to_agent=bob, from_agent=ann, is_persistent=False)
    [(subject, event)] = sent()
    assert (subject, event["payload"]) == (f"messages.direct.{ann}.{bob}", {"n": 1})
    assert event["message_id"] == str(made.message_id)
    assert rows("SELECT count(*) FROM messages.log") == [(0,)]


def test_what_is_not_kept_and_too_large_goes_nowhere(pair):
    send("x" * 256 * 1024, to_agent=pair[1], is_persistent=False)
    assert sent() == []


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("payload", "kept"),
    [
        ({"headers": {"traceparent": TRACE}}, {"traceparent": TRACE}),
        ({"headers": {"traceparent": "00-not-a-trace\r\nX: 1"}}, {}),
        ({"headers": {"traceparent": 7}}, {}),
        ({"headers": [], "payload": {"traceparent": TRACE}}, {}),
        ({"headers": {}}, {}),
    ],
)
def test_only_a_trace_in_the_headers_is_carried_on(payload, kept):
    row = Row(1, "AGENT_MESSAGES", "messages.direct.a.b", Op.EVENT, None, json.dumps(payload))
    assert trace_of(row) == kept
    assert {name: to_message(row, ABSENT).headers[name] for name in kept} == kept


@pytest.mark.servers
def test_messages_reach_the_stream(session, jetstream):
    """The largest that goes out whole, one as a reference, and a topic."""
    bob = register_agent("reader", "bob").pk
    create_channel("news-of-the-stream", "topic")
    send("x" * 250 * 1024, to_agent=bob)
    send("x" * 900 * 1024, to_agent=bob)
    send({"n": 1}, channel="news-of-the-stream", subject="a.b")
    try:
        memory = Memory()
        while rows("SELECT 1 FROM bridge.outbox"):
            assert relay_batch(session, memory).done_ids
        direct = [
            json.loads(item.data) for item in history("AGENT_MESSAGES", f"messages.direct.system.{bob}")
        ]
        assert [("payload" in event, event.get("is_reference")) for event in direct] == [
            (True, None),
            (False, True),
        ]
        [topic] = history("AGENT_MESSAGES", "messages.topic.news-of-the-stream.a.b")
        assert json.loads(topic.data)["payload"] == {"n": 1}
    finally:
        rows("DELETE FROM messages.log")
        rows("DELETE FROM messages.deliveries")
        rows("DELETE FROM messages.channels")
