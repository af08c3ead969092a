import threading
import time

import pytest

from tasks import tickets


@pytest.fixture
def sender(monkeypatch):
    """A sender of this test's own, and what it has sent."""
    fresh = tickets.Sender()
    fresh.sent = []
    monkeypatch.setattr(tickets, "_sender", fresh)
    monkeypatch.setattr(tickets, "send", lambda *ticket: fresh.sent.append(ticket))
    return fresh


def test_tickets_that_are_asked_for_together_leave_as_one(sender, monkeypatch):
    is_inside, may_leave = threading.Event(), threading.Event()

    def send(*ticket):
        is_inside.set()
        may_leave.wait(10)
        sender.sent.append(ticket)

    monkeypatch.setattr(tickets, "send", send)
    tickets.send_now(["a"])
    assert is_inside.wait(60)
    for _ in range(100):
        tickets.send_now(["a", "b"])
    may_leave.set()
    assert tickets.flush(60)
    assert sender.sent == [("a", True), ("a", True), ("b", True)]


def test_a_broker_that_refuses_gets_the_tickets_later_and_nobody_waits(sender, monkeypatch):
    monkeypatch.setattr(tickets, "RETRY_SECONDS", (0.01,))
    refusals = [ConnectionError("away"), ConnectionError("still away")]

    def send(*ticket):
        if refusals:
            raise refusals.pop()
        sender.sent.append(ticket)

    monkeypatch.setattr(tickets, "send", send)
    tickets.send_now(["a", "b"])
    assert tickets.flush(60)
    assert sender.sent == [("a", True), ("b", True)]
    assert sender.failures <= 2


def test_flush_gives_up_in_time(sender, monkeypatch):
    def send(*ticket):
        raise ConnectionError("away")

    monkeypatch.setattr(tickets, "send", send)
    tickets.send_now(["a"])
    start = time.monotonic()
    assert not tickets.flush(0.05)
    assert time.monotonic() - start < 30


def test_pauses_grow_with_each_refusal_and_start_anew(sender):
    assert [sender.pause_seconds(True) for _ in range(6)] == [0.5, 1, 2, 5, 10, 10]
    assert sender.pause_seconds(False) == tickets.SPACING_SECONDS
    assert sender.pause_seconds(True) == 0.5


def test_a_forked_child_does_not_send_what_its_parent_will(sender):
    with sender.changed:
        sender.wanted.add(("a", True))
        tickets._reset_after_fork()
    assert tickets._sender.wanted == set()
    assert tickets._sender.thread is None
