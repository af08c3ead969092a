import threading
import time
from types import SimpleNamespace

import pytest
from django.db import transaction

from tasks import known, tickets
from tasks.signals import work_came
from tests.tasks.conftest import eventually


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


def test_what_has_time_leaves_when_it_is_over_or_with_what_has_none(sender):
    for name in ("a", "a", "b"):
        sender.ask([name], within_seconds=1000)
    assert sender.seconds_left() > 900
    sender.ask(["c"], within_seconds=0.01)
    eventually(lambda: len(sender.sent) == 3)
    sender.ask(["d"], within_seconds=1000)
    tickets.send_now(["e"])
    eventually(lambda: len(sender.sent) == 5)
    sender.ask(["f"], within_seconds=1000)
    assert tickets.flush(60)
    assert [name for name, _ in sender.sent] == list("abcdef")


@pytest.mark.parametrize(
    ("asks", "with_time", "seconds"),
    [
        (tickets.BUSY_ASKS, 100, tickets.SPACING_SECONDS),
        (tickets.BUSY_ASKS + 1, 0, tickets.BUSY_SPACING_SECONDS),
    ],
)
def test_who_asks_more_often_than_workers_need_it_leaves_the_broker_alone_for_longer(
    sender, asks, with_time, seconds
):
    sender.thread = threading.current_thread()  # none of its own: taken up here
    for within_seconds in [0] * asks + [1000] * with_time:
        sender.ask(["a"], within_seconds=within_seconds)
    assert sender.take() == {("a", True)}
    assert sender.spacing_seconds() == seconds
    sender.ask(["a"])
    sender.take()
    assert sender.spacing_seconds() == tickets.SPACING_SECONDS


@pytest.fixture
def events(sender, monkeypatch):
    """What the sender did, in its order: tickets, `told`, and how long it paused in between."""
    done = []
    monkeypatch.setattr(tickets, "send", lambda task_type, may_recruit: done.append(task_type))
    clock = SimpleNamespace(sleep=done.append, time=time.time, monotonic=time.monotonic)
    monkeypatch.setattr(tickets, "time", clock)

    def told(sender, **kwargs):
        done.append("told")

    work_came.connect(told)
    yield done
    work_came.disconnect(told)


@pytest.mark.django_db(transaction=True)
def test_who_waits_for_work_is_told_when_the_tickets_are_on_their_way(sender, events):
    """What that wakes would take the core from the worker that begins the task."""
    with transaction.atomic():
        tickets.send_on_commit(["a", "b"])
        assert sender.thread is None, "nothing before the commit"
    eventually(lambda: "told" in events)
    assert events[:4] == ["a", "b", tickets.SPACING_SECONDS, "told"]


@pytest.mark.django_db(transaction=True)
def test_who_waits_is_told_at_once_of_what_agents_do(sender, events, monkeypatch):
    monkeypatch.setattr(known, "_for_agents", {"fetch"})
    monkeypatch.setattr(known, "learn", lambda task_types: None)
    tickets.send_on_commit(["fetch"])
    eventually(lambda: "told" in events)
    assert events[:2] == ["told", tickets.SPACING_SECONDS]


def test_a_call_for_another_worker_tells_nobody_else(sender, events):
    tickets.send_now(["a"])
    eventually(lambda: events)
    tickets.send_now(["b"])
    eventually(lambda: "b" in events)
    assert "told" not in events


def test_a_listener_that_raises_does_not_end_the_thread(sender, events):
    def raises(sender, **kwargs):
        raise RuntimeError("not today")

    work_came.connect(raises)
    try:
        sender.ask((), has_work=True)
        eventually(lambda: "told" in events)
    finally:
        work_came.disconnect(raises)
    tickets.send_now(["a"])
    eventually(lambda: "a" in events)


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
