"""Tickets in a worker's hands, on a real broker."""

import pytest
from celery import current_app
from kombu import Consumer, Queue
from kombu.transport import redis

from tasks import prefetched, tickets

UNACKED = "unacked"  # kombu's key: what was fetched, by delivery tag


@pytest.fixture
def hand(monkeypatch):
    """Publishes to a queue of its own, and fetches at most two messages from it."""
    monkeypatch.setattr(redis.Channel, "QoS", redis.Channel.QoS)
    prefetched.keep_tickets_in_memory()
    with Hand() as hand:
        yield hand


class Hand:
    def __enter__(self):
        self.queue = Queue("tests-prefetched", routing_key="tests-prefetched")
        self.connection = current_app.connection_for_read()
        self.fetched = []
        self.consumer = Consumer(
            self.connection.channel(), [self.queue], on_message=self.fetched.append, prefetch_count=2
        )
        self.consumer.purge()
        self.consumer.consume()
        return self

    def __exit__(self, *exc):
        self.consumer.purge()
        self.connection.close()

    def send(self, name):
        current_app.send_task(name, ("a", True), queue=self.queue, headers={tickets.SENT_AT: 0})

    def fetch(self, number):
        """Fetch until there are `number`, and all that may be fetched besides."""
        while len(self.fetched) < number:
            self.connection.drain_events(timeout=30)
        with pytest.raises(TimeoutError):
            self.connection.drain_events(timeout=0.1)
        return len(self.fetched)

    def copies(self):
        """How many messages the broker keeps a copy of."""
        with self.consumer.channel.conn_or_acquire() as client:
            return client.hlen(UNACKED)


@pytest.mark.servers
def test_tickets_in_hand_are_bounded_and_leave_no_copy_with_the_broker(hand):
    before = hand.copies()
    for _ in range(4):
        hand.send(tickets.JOB)
    assert hand.fetch(2) == 2, "no more than the prefetch limit, or other workers would get none"
    assert hand.copies() == before
    hand.fetched[0].ack()
    assert hand.fetch(3) == 3
    for message in hand.fetched[1:]:
        message.ack()
    assert hand.fetch(4) == 4


@pytest.mark.servers
def test_other_jobs_in_hand_are_copied_until_a_child_has_them(hand):
    before = hand.copies()
    hand.send("recovery.drill")
    hand.fetch(1)
    assert hand.copies() == before + 1
    hand.fetched[0].ack()
    assert hand.copies() == before
