"""The queue with its servers away."""

import time

import pytest
from celery import current_app
from kombu import pools

from tasks import tickets
from tasks.enqueue import enqueue
from tests.tasks.conftest import eventually, status_of

pytestmark = [pytest.mark.servers, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def own_broker(restartable):
    """A broker of this test's own, which its tickets go to."""
    broker = restartable("valkey")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tickets, "_sender", tickets.Sender())
        patch.setattr(current_app.conf, "broker_url", broker.server.url())
        patch.setattr(current_app.conf, "broker_write_url", broker.server.url())
        patch.setattr(tickets, "RETRY_SECONDS", (0.05,))
        forget_connections()
        yield broker
        if not broker.is_alive():
            broker.start()
        assert tickets.flush(60), "a ticket that is left would turn up in the next test"
    forget_connections()


def forget_connections():
    """Celery keeps pools for the broker that it met first; the next one asked for has the address that is set now."""
    pools.reset()
    current_app._pool = None
    current_app.amqp.__dict__.pop("_producer_pool", None)


def test_enqueuing_goes_on_at_full_speed_while_the_broker_is_away(own_broker, faults):
    faults.kill("valkey", own_broker)
    start = time.monotonic()
    ids = [enqueue("echo", number) for number in range(20)]
    assert time.monotonic() - start < 30
    faults.did(tasks=len(ids))
    faults.wrong(tasks_lost=sum(status_of(task_id) != "queued" for task_id in ids))
    assert not tickets.flush(0.05)


def test_tickets_leave_when_the_broker_is_back(own_broker, faults):
    faults.kill("valkey", own_broker)
    enqueue("echo")
    eventually(lambda: tickets._sender.failures > 0)
    own_broker.start()
    faults.did(tickets=1)
    faults.wrong(tickets_lost=int(not tickets.flush(20)))
