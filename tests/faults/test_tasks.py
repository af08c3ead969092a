"""The queue with its servers away."""

import time

import pytest
from celery import current_app

from tasks import tickets
from tasks.enqueue import enqueue
from tests.tasks.conftest import eventually, status_of

pytestmark = [pytest.mark.servers, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def own_broker(restartable, monkeypatch):
    """A broker of this test's own, which its tickets go to."""
    broker = restartable("valkey")
    monkeypatch.setattr(tickets, "_sender", tickets.Sender())
    monkeypatch.setattr(current_app.conf, "broker_url", broker.server.url())
    monkeypatch.setattr(current_app.conf, "broker_write_url", broker.server.url())
    current_app.pool.force_close_all()
    current_app.amqp.__dict__.pop("_producer_pool", None)
    yield broker
    tickets.flush(1)
    current_app.pool.force_close_all()


def test_enqueuing_goes_on_at_full_speed_while_the_broker_is_away(own_broker):
    own_broker.kill()
    start = time.monotonic()
    ids = [enqueue("echo", number) for number in range(20)]
    assert time.monotonic() - start < 2
    assert {status_of(task_id) for task_id in ids} == {"queued"}
    assert not tickets.flush(0.05)


def test_tickets_leave_when_the_broker_is_back(own_broker, monkeypatch):
    monkeypatch.setattr(tickets, "RETRY_SECONDS", (0.05,))
    own_broker.kill()
    enqueue("echo")
    eventually(lambda: tickets._sender.failures > 0)
    own_broker.start()
    assert tickets.flush(20)
