"""What happened reaches the channels; one that fails is tried again and holds up no other."""

import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from django.core import mail

from cockpit.servers.ports import free_port
from monitoring.models import AlarmChannel, AlarmEvent, AlarmRule, Notification
from monitoring.senders import LAST_ATTEMPT, send_due, send_to
from pg.errors import Refused

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def hook():
    """A real HTTP server that answers with `status` and keeps what it was sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.received.append((self.path, json.loads(body)))
            self.send_response(server.status)
            self.send_header("Location", f"{server.url}/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", free_port()), Handler)
    server.received, server.status = [], 200
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def event():
    rule = AlarmRule.objects.create(name="r", metric="m", warning=10, hint="look there")
    return AlarmEvent.objects.create(
        rule=rule, from_state="ok", to_state="warning", value=11, happened_at=NOW
    )


def notify(event, **channel):
    channel = AlarmChannel.objects.create(**{"name": channel["kind"], **channel})
    return Notification.objects.create(event=event, channel=channel, next_at=NOW)


def send_all(now):
    while send_due(now):
        pass


def test_a_webhook_gets_the_event_as_json(event, hook):
    note = notify(event, kind="webhook", target=f"{hook.url}/alarm")
    send_all(NOW)
    note.refresh_from_db()
    assert (note.status, note.sent_at, note.attempts) == ("sent", NOW, 1)
    ((path, body),) = hook.received
    assert path == "/alarm"
    assert (body["event_id"], body["alarm"], body["from"], body["to"], body["value"], body["hint"]) == (
        event.pk, "r", "ok", "warning", 11, "look there",
    )  # fmt: skip


def test_a_secret_target_comes_from_the_environment(event, hook, monkeypatch):
    monkeypatch.setenv("HOOK_URL", f"{hook.url}/secret")
    notify(event, kind="webhook", target="env:HOOK_URL")
    send_all(NOW)
    assert hook.received[0][0] == "/secret"
    monkeypatch.delenv("HOOK_URL")
    with pytest.raises(Refused, match="HOOK_URL is not set"):
        send_to(AlarmChannel.objects.get(), {})


@pytest.mark.parametrize("status", [500, 302])
def test_a_webhook_that_does_not_take_it_is_asked_again_later_and_at_last_given_up(event, hook, status):
    hook.status = status
    note = notify(event, kind="webhook", target=hook.url)
    send_all(NOW)
    note.refresh_from_db()
    assert (note.status, note.next_at) == ("pending", NOW + timedelta(seconds=15))
    send_all(NOW + timedelta(seconds=14))
    assert len(hook.received) == 1
    for _ in range(LAST_ATTEMPT - 1):
        note.refresh_from_db()
        send_all(note.next_at)
    note.refresh_from_db()
    assert (note.status, note.attempts, len(hook.received)) == ("failed", LAST_ATTEMPT, LAST_ATTEMPT)
    assert str(status) in note.error
    assert {path for path, _ in hook.received} == {"/"} or {path for path, _ in hook.received} == {""}


def test_a_failing_channel_holds_up_no_other(event):
    notify(event, name="dead", kind="webhook", target=f"http://127.0.0.1:{free_port()}")
    notify(event, name="mail", kind="email", target="ops@example.org")
    send_all(NOW)
    assert [message.to for message in mail.outbox] == [["ops@example.org"]]
    assert mail.outbox[0].subject == "[warning] r"
    assert "hint: look there" in mail.outbox[0].body
    assert Notification.objects.get(channel__name="dead").status == "pending"


@pytest.mark.parametrize(("kind", "target"), [("webhook", "file:///etc/passwd"), ("email", "nobody")])
def test_impossible_targets_are_refused(kind, target):
    with pytest.raises(Refused):
        send_to(AlarmChannel(kind=kind, target=target), {"to": "ok", "alarm": "test"})


@pytest.mark.servers
def test_an_event_reaches_a_nats_subject(event, nats_url):
    import asyncio

    import nats

    async def listen():
        client = await nats.connect(nats_url)
        subscription = await client.subscribe("alarms.test")
        await client.flush()
        await asyncio.to_thread(
            lambda: send_to(AlarmChannel(kind="nats", target="alarms.test"), {"alarm": "r"})
        )
        message = await subscription.next_msg(5)
        await client.close()
        return json.loads(message.data)

    assert asyncio.run(listen()) == {"alarm": "r"}
