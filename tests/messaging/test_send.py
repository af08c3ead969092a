from datetime import datetime, timedelta
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone

from agents.errors import UnknownAgent
from agents.registry import register_agent, terminate_agent
from messaging.channels import create_channel, set_active, subscribe
from messaging.delivery import take
from messaging.errors import MessageRefused, UnknownChannel
from messaging.models import Delivery, Message
from messaging.send import MAX_PAYLOAD_BYTES, OPEN_DAYS, reply, responses_to, send
from messaging.signals import message_passed
from pg.uuid7 import uuid7_time

pytestmark = pytest.mark.django_db


def recipients():
    return set(Delivery.objects.values_list("agent__agent_name", flat=True))


def test_a_direct_message_is_logged_and_delivered_to_its_agent(ann, bob):
    sent = send(
        {"n": 1}, to_agent=bob.pk, from_agent=ann.pk, message_type="command", subject="go", priority=3
    )
    message, delivery = Message.objects.get(), Delivery.objects.get()
    assert (message.pk, sent.recipients, message.payload) == (sent.message_id, 1, {"n": 1})
    assert (message.from_agent, message.to_agent, message.priority) == (ann, bob, 3)
    assert (delivery.message_id, delivery.agent, delivery.priority) == (message.pk, bob, 3)
    assert delivery.expires_at - message.sent_at == timedelta(days=OPEN_DAYS)
    assert message.sent_at == uuid7_time(message.pk)


def test_a_message_and_its_deliveries_are_one_round_trip(ann, bob, cat, django_assert_num_queries):
    with django_assert_num_queries(1):
        assert send({}, broadcast_to_type="reader", from_agent=ann.pk).recipients == 2


def test_a_broadcast_reaches_who_has_the_type_now(ann, bob, cat):
    terminate_agent(cat.pk)
    sent = send({}, broadcast_to_type="reader")
    register_agent("reader", "late")
    assert (sent.recipients, recipients()) == (1, {"bob"})
    assert send({}, broadcast_to_type="nobody").recipients == 0
    assert Message.objects.count() == 2


@pytest.mark.parametrize("kind", ["topic", "broadcast"])
def test_a_channel_reaches_each_agent_whose_subscription_fits_once(ann, bob, cat, kind):
    create_channel("news", kind)
    subscribe(ann.pk, "news", pattern="sport.>")
    subscribe(ann.pk, "news", pattern="*.football")
    subscribe(bob.pk, "news", filters={"score": {"home": 2}})
    subscribe(cat.pk, "news", filters={"score": {"home": 3}})
    sent = send({"score": {"home": 2, "away": 0}}, channel="news", subject="sport.football")
    assert (sent.recipients, recipients()) == (2, {"ann", "bob"})
    assert send({"score": {"home": 3}}, channel="news", subject="arts").recipients == 1


def test_inactive_subscriptions_and_terminated_agents_get_nothing(ann, bob):
    create_channel("news", "topic")
    ended = subscribe(ann.pk, "news")
    subscribe(bob.pk, "news")
    ended.is_active = False
    ended.save()
    terminate_agent(bob.pk)
    assert send({}, channel="news", subject="a").recipients == 0


@pytest.mark.parametrize("payload", [[1, 2], "text", 7, None, True])
def test_any_json_goes_through_a_channel_without_filters(bob, payload):
    create_channel("news", "topic")
    subscribe(bob.pk, "news")
    send(payload, channel="news", subject="a")
    assert take(bob.pk)[0].payload == payload


def test_a_direct_channel_reaches_its_subscriber(ann):
    create_channel("desk", "direct")
    with pytest.raises(MessageRefused, match="nobody subscribed"):
        send({}, channel="desk")
    subscribe(ann.pk, "desk")
    assert send({}, channel="desk").recipients == 1
    assert recipients() == {"ann"}


def test_a_queue_waits_for_whoever_takes_it(ann):
    create_channel("jobs", "queue")
    assert send({}, channel="jobs").recipients == 1
    delivery = Delivery.objects.get()
    assert (delivery.agent, delivery.queue.channel_name) == (None, "jobs")


# -- refusals: a clear error, nothing written -----------------------------------------------------------------
@pytest.fixture
def nothing_written():
    yield
    assert not Message.objects.exists()
    assert not Delivery.objects.exists()


@pytest.mark.parametrize(
    "route",
    [{}, {"channel": "news", "broadcast_to_type": "x"}, {"to_agent": uuid4(), "channel": "news"}],
)
def test_none_or_two_routes_are_refused(route, nothing_written):
    with pytest.raises(MessageRefused, match="route"):
        send({}, **route)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"priority": 11}, "priority=11"),
        ({"priority": -1}, "priority=-1"),
        ({"message_type": "shout"}, "message_type"),
        ({"subject": ""}, "subject"),
        ({"subject": "a..b"}, "subject"),
        ({"subject": "a.*"}, "subject"),
        ({"subject": "a b"}, "subject"),
        ({"subject": "x" * 256}, "subject"),
        ({"reply_to": ""}, "reply_to"),
        ({"reply_to": "x" * 256}, "reply_to"),
        ({"expires_at": datetime(2100, 1, 1)}, "time zone"),  # noqa: DTZ001
        ({"expires_at": timezone.now() - timedelta(seconds=1)}, "expires_at"),
        ({"expires_at": timezone.now() + timedelta(days=OPEN_DAYS, hours=1)}, "expires_at"),
        ({"payload": float("nan")}, "payload"),
        ({"payload": {"a": object()}}, "payload"),
        ({"payload": "\0"}, r"U\+0000"),
        ({"payload": "x" * MAX_PAYLOAD_BYTES}, "the limit is"),
        ({"headers": {"h": "x" * MAX_PAYLOAD_BYTES}}, "the limit is"),
    ],
)
def test_a_field_that_breaks_a_rule_is_refused(bob, nothing_written, change, word):
    with pytest.raises(MessageRefused, match=word):
        send(**({"payload": {}, "to_agent": bob.pk} | change))


def test_the_other_side_of_each_limit_is_accepted(bob):
    room = MAX_PAYLOAD_BYTES - len('""{}')
    for change in (
        {"priority": 0},
        {"priority": 10},
        {"subject": "x" * 255},
        {"expires_at": timezone.now() + timedelta(days=OPEN_DAYS, seconds=-10)},
        {"payload": "x" * room},
    ):
        assert send(**({"payload": {}, "to_agent": bob.pk} | change)).recipients == 1


@pytest.mark.parametrize("is_persistent", [True, False])
def test_routes_that_lead_nowhere_are_refused(ann, bob, nothing_written, is_persistent):
    create_channel("closed", "topic")
    create_channel("topic", "topic")
    set_active("closed", False)
    terminate_agent(bob.pk)
    for route, error, word in (
        ({"to_agent": uuid4()}, UnknownAgent, "to_agent"),
        ({"to_agent": bob.pk}, MessageRefused, "terminated"),
        ({"to_agent": ann.pk, "from_agent": uuid4()}, UnknownAgent, "from_agent"),
        ({"channel": "nowhere", "subject": "a"}, UnknownChannel, "nowhere"),
        ({"channel": "closed", "subject": "a"}, MessageRefused, "closed"),
        ({"channel": "topic"}, MessageRefused, "subject"),
    ):
        with pytest.raises(error, match=word):
            send({}, is_persistent=is_persistent, **route)


def test_a_refusal_leaves_the_caller_s_transaction_usable(bob):
    with transaction.atomic():
        with pytest.raises(UnknownAgent):
            send({}, to_agent=uuid4())
        send({}, to_agent=bob.pk)
    assert Message.objects.count() == 1


def test_a_message_is_rolled_back_with_its_transaction(bob, nothing_written):
    with transaction.atomic():
        send({}, to_agent=bob.pk)
        transaction.set_rollback(True)


def test_a_message_can_be_sent_late_in_a_long_transaction(bob):
    """Ids are of the moment, now() is that of the transaction's start: they may not drift apart by 5 minutes."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(0.05)")
    message_id = send({}, to_agent=bob.pk).message_id
    assert Message.objects.get().sent_at == uuid7_time(message_id)


# -- what is not kept -----------------------------------------------------------------------------------------
@pytest.fixture
def passed():
    heard = []

    def hear(message, **_):
        heard.append(message)

    message_passed.connect(hear)
    yield heard
    message_passed.disconnect(hear)


def test_a_message_that_is_not_persistent_is_heard_and_not_written(ann, bob, passed, nothing_written):
    sent = send({"n": 1}, to_agent=bob.pk, from_agent=ann.pk, is_persistent=False)
    assert sent.recipients == 0
    assert [(message.message_id, message.payload, message.route.to_agent) for message in passed] == [
        (sent.message_id, {"n": 1}, bob.pk)
    ]


def test_a_listener_that_breaks_does_not_break_the_sender(bob, passed):
    def fall(**_):
        raise ZeroDivisionError

    message_passed.connect(fall)
    try:
        send({}, to_agent=bob.pk, is_persistent=False)
    finally:
        message_passed.disconnect(fall)
    assert len(passed) == 1


# -- queries and responses ------------------------------------------------------------------------------------
def test_a_response_finds_its_query(ann, bob):
    asked = send(
        {"q": 1}, to_agent=bob.pk, from_agent=ann.pk, message_type="query", subject="sum", priority=4
    )
    other = send({"q": 2}, to_agent=bob.pk, from_agent=ann.pk, message_type="query")
    assert asked.correlation_id == asked.message_id
    query = take(bob.pk)[0]
    reply(query, {"a": 2})
    [answer] = responses_to(asked)
    assert (answer.payload, answer.from_agent, answer.to_agent, answer.subject) == ({"a": 2}, bob, ann, "sum")
    assert (answer.message_type, answer.priority, answer.correlation_id) == ("response", 4, asked.message_id)
    assert not responses_to(other).exists()
    assert take(ann.pk)[0].payload == {"a": 2}


def test_a_command_is_answered_under_its_own_id(ann, bob):
    ordered = send({}, to_agent=bob.pk, from_agent=ann.pk, message_type="command")
    assert ordered.correlation_id is None
    reply(take(bob.pk)[0], "done", message_type="error")
    assert responses_to(ordered).get().payload == "done"


def test_a_reply_goes_where_reply_to_says(ann, bob, cat):
    create_channel("answers", "direct")
    subscribe(cat.pk, "answers")
    asked = send({}, to_agent=bob.pk, from_agent=ann.pk, message_type="query", reply_to="answers")
    reply(take(bob.pk)[0], 1)
    assert (take(cat.pk)[0].correlation_id, take(ann.pk)) == (asked.message_id, [])


def test_nobody_can_be_answered_where_nobody_asked(bob):
    send({}, to_agent=bob.pk, message_type="query")
    with pytest.raises(MessageRefused, match="nobody to answer"):
        reply(take(bob.pk)[0], 1)
