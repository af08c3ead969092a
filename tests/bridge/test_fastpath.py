"""An ORM write is in KV right after its commit; here no relay runs."""

import asyncio
import threading
import time
from contextlib import contextmanager

import pytest
from django.db import connection as db
from django.db import transaction

from agents.models import Agent, AgentState
from agents.registry import register_agent
from agents.state import delete_state, write_state
from bridge import breaker as breaking
from bridge import connection, fastpath
from bridge.breaker import BACK_OFF_SECONDS
from bridge.delivery import WAKE_SUBJECT, WORK
from bridge.fastpath import MAX_KEYS, breaker
from bridge.fence import FENCE
from bridge.models import Conflict
from bridge.relay import Memory, relay_batch
from bridge.session import open_session
from pg.errors import Unreachable
from tasks import tickets
from tasks.claim import cancel
from tasks.enqueue import enqueue
from tasks.models import Task
from tasks.signals import tasks_changed
from tests.bridge.conftest import empty_outbox, history, look, outbox, put, rows, value
from tests.tasks.conftest import eventually

pytestmark = pytest.mark.usefixtures("committed")


@pytest.fixture
def patient(settings, jetstream):
    """A loaded test machine may need longer than a request may wait."""
    settings.BRIDGE_FAST_PATH_WAIT_MS = 5_000
    connection.call(fastpath_noop)


async def fastpath_noop(client):
    pass


@pytest.mark.usefixtures("patient")
class TestWithNats:
    def test_saving_puts_the_value_into_kv_before_save_returns(self, agent):
        write_state(agent.pk, {"mood": "fine", "a key": [1]})
        assert value("AGENT_STATE", f"{agent.pk}.mood") == "fine"
        assert value("AGENT_STATE", f"{agent.pk}.a=20key") == [1]
        assert value("AGENT_CONFIG", str(agent.pk))["agent_type"] == "reader"

    def test_deleting_deletes_the_key(self, agent):
        write_state(agent.pk, {"mood": "fine"})
        delete_state(agent.pk, ["mood"])
        assert look("AGENT_STATE", f"{agent.pk}.mood").is_deleted

    def test_tasks_are_pushed_by_the_orm_and_by_the_signal_of_their_room(self, agent):
        task = Task.objects.create(task_type="echo")
        assert value("TASK_STATE", str(task.pk))["status"] == "queued"
        with transaction.atomic():
            rows("UPDATE tasks.queue SET progress = '{\"done\": 1}' WHERE task_id = %s", task.pk)
            tasks_changed.send(None, task_ids=[task.pk])
        assert value("TASK_STATE", str(task.pk))["progress"] == {"done": 1}

    def test_a_worker_s_own_steps_are_the_relay_s_which_comes_by_soon_enough(self, agent, monkeypatch):
        """Thousands a second: none of them may wait for NATS, nor wake anybody. What somebody asks for is pushed."""
        told = []
        monkeypatch.setattr(tickets, "_sender", tickets.Sender())
        monkeypatch.setattr(tickets, "send", lambda *ticket: None)
        monkeypatch.setattr(type(connection.link()), "send", lambda self, *message: told.append(message))
        task_id = enqueue("echo")
        with transaction.atomic():
            rows("UPDATE tasks.queue SET progress = '{\"done\": 1}' WHERE task_id = %s", task_id)
            tasks_changed.send(None, task_ids=[task_id], is_work=True)
        assert value("TASK_STATE", str(task_id)) is None
        eventually(
            lambda: told == [(WAKE_SUBJECT, WORK)]
        )  # by the tickets' thread: enqueue made a task ready
        other = enqueue("echo")
        cancel([other])
        assert value("TASK_STATE", str(other))["status"] == "cancelled"
        assert (WAKE_SUBJECT,) in told

    def test_nothing_is_pushed_before_the_commit_or_after_a_rollback(self, agent):
        key = f"{agent.pk}.mood"
        with transaction.atomic():
            write_state(agent.pk, {"mood": "fine"})
            assert value("AGENT_STATE", key) is None
            transaction.set_rollback(True)
        assert value("AGENT_STATE", key) is None

    def test_one_callback_serves_a_transaction(self, agent):
        with transaction.atomic():
            for number in range(5):
                write_state(agent.pk, {"mood": number, "other": number})
            hooks = [hook for _, hook, _ in db.run_on_commit if isinstance(hook, fastpath.CommitHook)]
            assert [len(hook.keys) for hook in hooks] == [2]
        assert value("AGENT_STATE", f"{agent.pk}.mood") == 4
        assert len(history("KV_AGENT_STATE")) == 2

    def test_a_rolled_back_savepoint_does_not_silence_the_rest(self, agent):
        with transaction.atomic():
            savepoint = transaction.savepoint()
            write_state(agent.pk, {"gone": 1})
            transaction.savepoint_rollback(savepoint)
            write_state(agent.pk, {"kept": 2})
        assert value("AGENT_STATE", f"{agent.pk}.kept") == 2
        assert value("AGENT_STATE", f"{agent.pk}.gone") is None

    def test_large_transactions_are_left_to_the_relay(self, agent):
        empty_outbox()
        write_state(agent.pk, {f"k{n}": n for n in range(MAX_KEYS + 1)})
        assert history("KV_AGENT_STATE") == []
        assert len(outbox()) == MAX_KEYS + 1

    def test_it_deletes_nothing_and_the_relay_sees_what_it_did(self, agent, session):
        empty_outbox()
        write_state(agent.pk, {"mood": "fine"})
        assert len(outbox()) == 1
        assert relay_batch(session, Memory()).known == 1
        assert outbox() == []
        assert len(history("KV_AGENT_STATE")) == 1

    def test_callbacks_in_reverse_order_end_at_the_newer_value(self, agent):
        """The first writer's callback runs only after the second writer's."""
        write_state(agent.pk, {"mood": 0})
        first_committed, second_pushed = threading.Event(), threading.Event()

        def first():
            with own_connection(), transaction.atomic():
                transaction.on_commit(lambda: (first_committed.set(), second_pushed.wait(20)))
                write_state(agent.pk, {"mood": 1})

        thread = threading.Thread(target=first)
        thread.start()
        assert first_committed.wait(60)
        write_state(agent.pk, {"mood": 2})
        assert value("AGENT_STATE", f"{agent.pk}.mood") == 2
        second_pushed.set()
        thread.join(60)
        assert value("AGENT_STATE", f"{agent.pk}.mood") == 2

    @pytest.mark.parametrize("step", ["read_newest", "publish_rows"])
    def test_a_push_that_was_overtaken_loses(self, agent, monkeypatch, step):
        """The older row is in hand, the newer one is published and forgotten, then the older one is sent: once before
        the older one looked at the key, once after."""
        write_state(agent.pk, {"mood": 0})
        overtaken = overtake_once(monkeypatch, step, lambda: write_and_relay(agent, 2))
        write_state(agent.pk, {"mood": 1})
        assert overtaken.is_set()
        assert value("AGENT_STATE", f"{agent.pk}.mood") == 2

    def test_conflicts_are_left_to_the_relay_which_records_them(self, agent, session):
        write_state(agent.pk, {"mood": 0})
        put("AGENT_STATE", f"{agent.pk}.mood", "agent's own")
        write_state(agent.pk, {"mood": 1})
        assert value("AGENT_STATE", f"{agent.pk}.mood") == "agent's own"
        relay_batch(session, Memory())
        assert value("AGENT_STATE", f"{agent.pk}.mood") == 1
        assert Conflict.objects.count() == 1

    def test_a_backup_holds_it_too(self, agent):
        with open_session([f"SELECT pg_advisory_lock({FENCE})"]):
            write_state(agent.pk, {"mood": 1})
            assert value("AGENT_STATE", f"{agent.pk}.mood") is None

    def test_a_value_beyond_the_bucket_is_the_relay_s_to_refuse(self, agent):
        Agent.objects.filter(pk=agent.pk).update(configuration={})
        agent.configuration = {"big": "x" * (600 << 10)}
        agent.save()
        assert value("AGENT_CONFIG", str(agent.pk))["configuration"] == {}


def overtake_once(monkeypatch, step, overtake):
    """Let `overtake` run to its end, in another thread, when the fast path first comes to `step`."""
    real, done = getattr(fastpath, step), threading.Event()

    def pause():
        if not done.is_set():
            done.set()
            thread = threading.Thread(target=overtake)
            thread.start()
            return thread
        return None

    def at_read(*arguments):
        found, thread = real(*arguments), pause()
        if thread:
            thread.join(60)
        return found

    async def at_publish(*arguments):
        if thread := pause():
            await asyncio.to_thread(thread.join, 20)
        return await real(*arguments)

    monkeypatch.setattr(fastpath, step, at_read if step == "read_newest" else at_publish)
    return done


def write_and_relay(agent, mood):
    with own_connection(), open_session() as session:
        write_state(agent.pk, {"mood": mood})
        relay_batch(session, Memory())


@contextmanager
def own_connection():
    """Close the thread's own Django connection at its end."""
    try:
        yield
    finally:
        db.close()


def test_saving_works_and_waits_once_while_nats_is_away(settings, monkeypatch):
    settings.NATS_URL = "nats://127.0.0.1:1"
    connection.close()
    breaker.reset()
    push, waits = fastpath.push, []
    monkeypatch.setattr(breaking, "BACK_OFF_SECONDS", 600)
    monkeypatch.setattr(fastpath, "push", lambda *given: waits.append(given) or push(*given))
    agent = register_agent("reader", "reader-1")
    for number in range(100):
        write_state(agent.pk, {"mood": number})
    assert breaker.is_open()
    assert len(waits) == 1
    breaker.reset()
    assert AgentState.objects.get().state_value == 99
    connection.close()
    breaker.reset()


def test_after_the_back_off_it_tries_again(monkeypatch):
    now = time.monotonic()
    breaker.trip()
    monkeypatch.setattr(breaking.time, "monotonic", lambda: now + BACK_OFF_SECONDS + 1)
    assert not breaker.is_open()
    breaker.reset()


def test_a_server_that_is_slow_for_a_moment_is_asked_again(jetstream, monkeypatch):
    """Beside a bulk update one save in hundreds waits in vain; the next must not be left to the relay for that."""
    connection.call(noop)  # the link is up
    monkeypatch.setattr(fastpath, "push", too_late)
    for number in range(2):
        register_agent("reader", f"reader-{number}")
        assert not breaker.is_open()
    register_agent("reader", "reader-3")
    assert breaker.is_open()
    breaker.reset()


def too_late(*arguments):
    raise Unreachable("no answer in time")


async def noop(client):
    pass


def test_whatever_breaks_in_the_callback_the_caller_never_sees_it(jetstream, monkeypatch):
    def explode(*arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(fastpath, "push", explode)
    register_agent("reader", "reader-1")
    assert Agent.objects.count() >= 1


def test_fixtures_are_loaded_in_peace(jetstream, monkeypatch):
    touched = []
    monkeypatch.setattr(fastpath, "touch", lambda *arguments, **options: touched.append(arguments))
    receiver = fastpath.make_receiver(fastpath.config_key_of)
    receiver(instance=Agent(), using="default", raw=True)
    assert touched == []
