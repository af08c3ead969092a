"""Heartbeats, messages, progress and what used up its deliveries: from NATS into PostgreSQL."""

import json
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.db import connection as db

from agents.models import Agent, Heartbeat
from bridge import connection, topology
from bridge.changes import Letter
from bridge.exhausted import ExhaustedReader
from bridge.headers import SYNC_ORIGIN
from bridge.heartbeats import Heartbeats, read_heartbeat, record
from bridge.models import DeadLetter
from bridge.progress import ProgressReader
from bridge.reader import BATCH
from bridge.received import MessageReader, mint_id
from bridge.redrive import redrive_letters
from bridge.relay import Memory, relay_batch
from messaging.channels import create_channel
from messaging.delivery import take
from messaging.models import Message
from operators.audit import Actor
from tasks.models import Task
from tests.bridge.conftest import empty_outbox, outbox, rows, value, wait_until

pytestmark = pytest.mark.usefixtures("committed", "jetstream")

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@contextmanager
def running(part):
    thread = threading.Thread(target=part.run)
    thread.start()
    try:
        yield part
    finally:
        part.stop()
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def other(agent):
    return Agent.objects.create(agent_type="writer", agent_name="writer-1")


@pytest.fixture(autouse=True)
def clean(committed):
    yield
    for table in ("messages.deliveries", "messages.log", "messages.subscriptions", "messages.channels"):
        rows(f"DELETE FROM {table}")


def publish(subject, data, **headers):
    """As an agent does; return the sequence."""
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    named = {name.replace("_", "-"): text for name, text in headers.items()} or None
    return connection.call(lambda c: c.jetstream.publish(subject, raw, headers=named)).seq


# -- heartbeats ------------------------------------------------------------------------------------------------
def beat(agent, data=b"{}", subject=None):
    subject = subject or f"agents.heartbeat.{agent.pk}"

    async def send(client):
        await client.nc.publish(subject, data)
        await client.nc.flush()

    connection.call(send)


def test_heartbeats_reach_the_registry_by_postgresql_s_clock(agent):
    with running(Heartbeats()) as part:
        wait_until(lambda: part.is_prepared)
        beat(agent, b'{"sent_at": "1970-01-01T00:00:00Z"}')
        beat(agent, b'{"sent_at": "2100-01-01T00:00:00Z"}')
        wait_until(lambda: Heartbeat.objects.filter(agent=agent).exists())
    age = rows("SELECT extract(epoch FROM clock_timestamp() - last_heartbeat) FROM agents.heartbeats")[0][0]
    assert 0 <= age < 30
    assert part.figures() == {"recorded": 1, "refused": 0}


def test_a_replaced_and_an_unknown_agent_are_not_alive(agent, session):
    Agent.objects.filter(pk=agent.pk).update(epoch=2)
    assert record(session, {agent.pk: 1, uuid4(): None}) == 0
    assert record(session, {agent.pk: 1 << 70}) == 0
    assert record(session, {agent.pk: 2}) == 1
    assert record(session, {agent.pk: None}) == 1


@pytest.mark.parametrize(
    ("subject", "data", "headers"),
    [
        ("agents.heartbeat.me", b"{}", {}),
        ("agents.heartbeat.{id}", b"beat", {}),
        ("agents.heartbeat.{id}", b"[]", {}),
        ("agents.heartbeat.{id}", b'{"epoch": "x"}', {}),
        ("agents.heartbeat.{id}", b"{}", {"Nats-Stream": "KV_AGENT_STATE"}),
    ],
)
def test_what_is_no_heartbeat_is_none(subject, data, headers):
    assert read_heartbeat(subject.format(id=uuid4()), data, headers) is None


# -- messages --------------------------------------------------------------------------------------------------
def test_a_message_of_an_agent_is_logged_delivered_and_not_sent_back(agent, other):
    empty_outbox()
    sent = {
        "payload": {"n": 1},
        "message_type": "command",
        "subject": "do.it",
        "priority": 5,
        "headers": {"x": 1},
    }
    publish(
        f"messages.direct.{agent.pk}.{other.pk}", sent, Sender_Time="2100-01-01T00:00:00Z", traceparent=TRACE
    )
    with running(MessageReader()) as reader:
        message = wait_until(lambda: Message.objects.filter(from_agent=agent).first())
        wait_until(lambda: reader.totals["applied"] == 1)
    assert (message.to_agent_id, message.payload, message.message_type) == (other.pk, {"n": 1}, "command")
    assert message.headers == {"x": 1, "Sender-Time": "2100-01-01T00:00:00Z", "traceparent": TRACE}
    assert abs(message.sent_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert [taken.payload for taken in take(other.pk, limit=10)] == [{"n": 1}]
    assert [row for row in outbox() if row[0] == "AGENT_MESSAGES"] == []


def test_a_message_that_is_read_twice_is_logged_and_delivered_once(agent, other):
    publish(f"messages.direct.{agent.pk}.{other.pk}", {"payload": 1})
    for _ in range(2):
        with running(MessageReader()) as reader:
            wait_until(lambda part=reader: part.totals["applied"] + part.totals["stale"] == 1)
        forget(topology.MESSAGES)
    assert Message.objects.count() == 1
    assert rows("SELECT count(*) FROM messages.deliveries") == [(1,)]


def forget(name):
    """Have a consumer deliver everything again."""
    item = next(item for item in topology.consumers().values() if item.name == name)
    connection.call(lambda c: c.jetstream.delete_consumer(item.stream, item.name))
    connection.call(lambda c: c.jetstream.add_consumer(item.stream, item.config()))


def test_what_the_control_plane_published_is_left_alone(agent, other):
    publish(f"messages.direct.{agent.pk}.{other.pk}", {"payload": 1}, Sync_Origin="pg")
    with running(MessageReader()) as reader:
        wait_until(lambda: reader.totals["own"] == 1)
    assert not Message.objects.exists()


def test_what_the_control_plane_published_is_passed_by_however_much_it_is(agent, other):
    """More than is asked for at once; what somebody else wrote behind it comes through, and nothing is left over."""
    subject = f"messages.direct.{agent.pk}.{other.pk}"
    for _ in range(BATCH + 1):
        publish(subject, {"payload": 1}, Sync_Origin="pg")
    publish(subject, {"payload": 2})
    with running(MessageReader()) as reader:
        wait_until(lambda: reader.totals["applied"] == 1)
        assert reader.totals["own"] == BATCH + 1
        wait_until(lambda: consumer_state().num_ack_pending == 0)
        assert (consumer_state().num_pending, reader.pending) == (0, 0)
    assert [message.payload for message in Message.objects.all()] == [2]


def consumer_state():
    return connection.call(lambda c: c.jetstream.consumer_info("AGENT_MESSAGES", topology.MESSAGES))


def test_what_the_control_plane_published_asks_nothing_of_postgresql(django_assert_num_queries):
    own = Letter("messages.direct.a.b", b"{}", {SYNC_ORIGIN: "pg"}, 1, 1, datetime.now(UTC))
    reader = MessageReader()
    with django_assert_num_queries(0):
        reader.read_batch([own, own])
    assert reader.totals["own"] == 2


def test_every_route_is_read(agent, other):
    for name, kind in (("all", "broadcast"), ("news", "topic"), ("work", "queue")):
        create_channel(name, kind)
    sender = {"from_agent_id": str(agent.pk)}
    publish(
        f"messages.broadcast.{agent.pk}",
        {"payload": 1, "broadcast_to_type": "writer", "message_type": "query"},
    )
    publish(f"messages.broadcast.{agent.pk}", {"payload": 2, "channel": "all"})
    publish("messages.notification.writer", {"payload": 3, **sender})
    publish("messages.topic.news.orders.42=20paid", {"payload": 4, **sender})
    publish("messages.queue.work", {"payload": 5, **sender})
    with running(MessageReader()) as reader:
        wait_until(lambda: sum(reader.totals.values()) == 5)
    assert DeadLetter.objects.count() == 1  # a blank is no part of a subject
    found = dict(Message.objects.values_list("payload", "channel__channel_name"))
    assert found == {1: None, 2: "all", 3: None, 5: "work"}


BAD = [
    ("messages.direct.{a}.{b}", b"{", "no JSON"),
    ("messages.direct.{a}.{b}", {"text": "x"}, "object with `payload`"),
    ("messages.direct.system.{b}", {"payload": 1}, "must be an agent's id"),
    ("messages.direct.{a}.00000000-0000-7000-8000-0000000000ff", {"payload": 1}, "no such agent"),
    ("messages.queue.none", {"payload": 1, "from_agent_id": "{a}"}, "no such channel"),
    ("messages.broadcast.{a}", {"payload": 1}, "none given"),
    ("messages.direct.{a}.{b}", {"payload": 1, "priority": 11}, "must be 0 to 10"),
    ("messages.direct.{a}.{b}", {"payload": 1, "priority": "high"}, "must be a number"),
    ("messages.direct.{a}.{b}", {"payload": "\x00"}, "U\\+0000"),
    ("messages.direct.{a}.{b}", {"payload": 1, "expires_at": "soon"}, "ISO 8601"),
    ("messages.direct.{a}.{b}", {"payload": 1, "correlation_id": "x"}, "uuid"),
]


def test_bad_messages_are_set_apart_with_the_reason_and_good_ones_go_in(agent, other):
    def fill(text):
        return text.replace("{a}", str(agent.pk)).replace("{b}", str(other.pk))

    for subject, data, _ in BAD:
        raw = data if isinstance(data, bytes) else fill(json.dumps(data)).encode()
        publish(fill(subject), raw)
    publish(f"messages.direct.{agent.pk}.{other.pk}", {"payload": "good"})
    with running(MessageReader()) as reader:
        wait_until(lambda: sum(reader.totals.values()) == len(BAD) + 1)
    assert [message.payload for message in Message.objects.all()] == ["good"]
    errors = list(DeadLetter.objects.order_by("stream_sequence").values_list("error", flat=True))
    assert len(errors) == len(BAD)
    for error, (*_, expected) in zip(errors, BAD, strict=True):
        assert expected.replace("\\", "") in error


def test_a_dead_message_is_sent_when_its_channel_exists(agent):
    publish("messages.queue.later", {"payload": 1, "from_agent_id": str(agent.pk)})
    with running(MessageReader()):
        dead = wait_until(lambda: DeadLetter.objects.first())
    create_channel("later", "queue")
    assert redrive_letters([dead.pk], by=Actor("ada", "admin"), reason="opened").done == 1
    assert Message.objects.get().channel.channel_name == "later"


def test_an_id_is_the_stream_s_time_and_place():
    at = datetime(2026, 3, 1, tzinfo=UTC)
    letter = Letter("messages.queue.a", b"", {}, sequence=7, epoch=5, stored_at=at)
    assert mint_id(letter) == mint_id(letter)
    assert mint_id(letter) != mint_id(Letter("messages.queue.a", b"", {}, 7, 6, at))
    assert int(mint_id(letter)) >> 80 == at.timestamp() * 1000


def test_a_message_of_a_day_without_a_partition_is_kept_for_later(agent, other, monkeypatch):
    """A server whose clock is at 2100, or a stream that is read again after its days were dropped."""
    letter = Letter(
        f"messages.direct.{agent.pk}.{other.pk}",
        b'{"payload": 1}',
        {},
        7,
        5,
        datetime(2100, 1, 1, tzinfo=UTC),
    )
    MessageReader().read_batch([letter])
    db.close()
    assert "partition" in DeadLetter.objects.get().error


# -- progress --------------------------------------------------------------------------------------------------
@pytest.fixture
def task(agent):
    made = Task.objects.create(task_type="echo")
    rows("UPDATE tasks.queue SET status = 'running', worker = %s, attempt = 1, started_at = now(),"
         " lease_until = now() + interval '1 hour'", agent.pk)  # fmt: skip
    empty_outbox()
    return made


def progress(task):
    return Task.objects.values_list("progress", flat=True).get(pk=task.pk)


def test_an_agent_s_progress_reaches_task_state(agent, task, session):
    publish(f"tasks.started.{task.pk}.{agent.pk}", {"percent": 40, "note": "reading"})
    with running(ProgressReader()) as reader:
        wait_until(lambda: reader.totals["applied"] == 1)
    assert (progress(task)["percent"], progress(task)["note"]) == (40, "reading")
    while relay_batch(session, Memory()).read:
        pass
    assert value("TASK_STATE", str(task.pk))["progress"]["percent"] == 40


def test_older_progress_and_that_of_another_agent_changes_nothing(agent, other, task):
    reader = ProgressReader()
    letters = [
        Letter(
            f"tasks.started.{task.pk}.{who}", json.dumps({"percent": n}).encode(), {}, n, 5, datetime.now(UTC)
        )
        for n, who in ((50, agent.pk), (40, agent.pk), (60, other.pk))
    ]
    reader.read_batch(letters)
    assert (progress(task)["percent"], reader.totals["stale"]) == (50, 2)


def test_what_the_handler_said_itself_stays(agent, task):
    rows("UPDATE tasks.queue SET progress = %s", json.dumps({"percent": 80, "note": "by the handler"}))
    reader = ProgressReader()
    subject = f"tasks.started.{task.pk}.{agent.pk}"
    reader.read_batch([Letter(subject, b'{"percent": 40}', {}, 7, 5, datetime.now(UTC))])
    assert (progress(task)["percent"], reader.totals["stale"]) == (80, 1)


@pytest.mark.parametrize(
    ("subject", "data", "error"),
    [
        ("tasks.started.x.y", b"{}", "must be tasks.started"),
        ("tasks.started.{t}.{a}", b"[]", "JSON object"),
        ("tasks.started.{t}.{a}", b'{"percent": 101}', "must be 0 to 100"),
        ("tasks.started.{t}.{a}", b'{"percent": true}', "must be 0 to 100"),
        ("tasks.started.{t}.{a}", b'{"note": 1}', "must be text"),
        ("tasks.started.00000000-0000-7000-8000-0000000000ff.{a}", b'{"percent": 1}', "no such task"),
    ],
)
def test_bad_progress_is_set_apart(agent, task, subject, data, error):
    subject = subject.format(t=task.pk, a=agent.pk)
    ProgressReader().read_batch([Letter(subject, data, {}, 7, 5, datetime.now(UTC))])
    db.close()
    assert error in DeadLetter.objects.get().error


# -- deliveries that are used up -------------------------------------------------------------------------------
def test_what_nobody_settles_in_five_deliveries_is_a_dead_letter(own_jetstream, agent, other, settings):
    settings.BRIDGE_OVERRIDES = {"consumer:AGENT_MESSAGES/message-batch-processor": {"ack_wait_seconds": 0.1}}
    item = topology.consumers()["AGENT_MESSAGES/message-batch-processor"]
    connection.call(lambda c: c.jetstream.add_consumer(item.stream, item.config()))
    publish(f"messages.direct.{agent.pk}.{other.pk}", {"payload": "lost?"})

    async def take_and_die(client):
        subscription = await client.jetstream.pull_subscribe_bind(item.name, stream=item.stream)
        for _ in range(item.max_deliver):
            await subscription.fetch(1, timeout=5)
        with pytest.raises(TimeoutError):
            await subscription.fetch(1, timeout=0.3)

    connection.call(take_and_die, 30)
    with running(ExhaustedReader()):
        dead = wait_until(lambda: DeadLetter.objects.first())
    assert (dead.consumer, dead.stream) == (item.name, item.stream)
    assert json.loads(bytes(dead.payload)) == {"payload": "lost?"}
    assert dead.error == "delivered 5 times and never settled"
    assert redrive_letters([dead.pk], by=Actor("ada", "admin"), reason="readers are back").done == 1
    assert Message.objects.get().payload == "lost?"
