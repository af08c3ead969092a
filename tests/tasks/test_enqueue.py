import threading
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from pg.errors import Refused
from tasks import known, registry
from tasks.claim import cancel, claim, finish
from tasks.enqueue import QUERIES, NewTask, TaskRefused, enqueue, enqueue_many
from tasks.leaves import register_types
from tasks.models import Task, UniqueKey
from tests.tasks.conftest import eventually, somebody_waits, status_of

pytestmark = pytest.mark.django_db


def test_a_task_is_ready_and_has_what_its_handler_declares(handles):
    handles("mine", lambda context: 1, max_retries=7, timeout_seconds=9, priority="high")
    task = Task.objects.get(pk=enqueue("mine", {"a": 1}))
    assert (task.status, task.payload, task.max_retries) == ("queued", {"a": 1}, 7)
    assert (task.max_execution_time, task.priority) == (timedelta(seconds=9), "high")


def test_what_is_given_wins_over_what_the_handler_declares(handles):
    handles("mine", lambda context: 1, max_retries=7)
    task = Task.objects.get(pk=enqueue("mine", max_retries=0, priority="low", timeout_seconds=1.5))
    assert (task.max_retries, task.priority, task.max_execution_time) == (0, "low", timedelta(seconds=1.5))


def test_many_tasks_come_back_in_order(monkeypatch):
    monkeypatch.setattr("tasks.enqueue.BATCH", 20)
    monkeypatch.setattr("tasks.enqueue.CHUNK", 7)
    ids = enqueue_many(NewTask(task_type=f"t{n % 3}", payload=n) for n in range(50))
    assert [Task.objects.get(pk=task_id).payload for task_id in ids] == list(range(50))
    assert enqueue_many([]) == []


def test_one_task_is_stored_as_many_are_with_a_key_and_without(agent_id):
    now = timezone.now()
    everything = {
        "payload": {"a": ["ü\n", None]},
        "name": 'with\ttab, "quote" and \\N',
        "priority": "urgent",
        "scheduled_at": now + timedelta(days=400, microseconds=1),
        "expires_at": now + timedelta(days=4000),
        "resources": ['a "b"', "c,d", "e\\f", "{g}", "NULL"],
        "parent": enqueue("other"),
        "concurrency_key": "k",
        "assigned_agent": agent_id,
        "created_by_agent": agent_id,
        "max_retries": (1 << 31) - 1,
        "timeout_seconds": 1.234567,
    }
    for options in ({}, everything):
        alone = enqueue("echo", **options)
        others = enqueue_many([NewTask(task_type="echo", **options)] * 2)
        keyed = enqueue("echo", unique_key="held", **options)
        rows = {str(columns_of(task_id)) for task_id in (alone, *others, keyed)}
        assert len(rows) == 1, rows
        cancel([keyed])


def columns_of(task_id):
    own = ("task_id", "created_at", "updated_at", "unique_key")
    return {name: value for name, value in Task.objects.values().get(pk=task_id).items() if name not in own}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"priority": "asap"}, "priority='asap'"),
        ({"max_retries": -1}, "max_retries=-1"),
        ({"timeout_seconds": 0}, "timeout_seconds=0"),
        ({"timeout_seconds": float("inf")}, "at most 1e12"),
        ({"unique_key": ""}, "unique_key=''"),
        ({"unique_key": "k" * 256}, "1 to 255"),
        ({"scheduled_at": datetime(2026, 1, 1)}, "time zone"),  # noqa: DTZ001
        ({"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, "future"),
        ({"payload": {1, 2}}, "JSON cannot hold it"),
        ({"payload": float("nan")}, "JSON cannot hold it"),
        ({"payload": "a\0b"}, "U\\+0000"),
        ({"payload": {"\ud800": 1}}, "Unicode"),
        ({"depends_on": [uuid4()]}, "does not exist"),
        ({"parent": uuid4()}, "parent task does not exist"),
        ({"assigned_agent": uuid4()}, "assigned agent does not exist"),
    ],
)
def test_what_breaks_a_rule_is_refused_and_nothing_is_enqueued(options, words):
    if "parent" in options or "assigned_agent" in options or "depends_on" in options:
        connection.cursor().execute("SET CONSTRAINTS ALL IMMEDIATE")
    good = NewTask(task_type="echo")
    with pytest.raises(TaskRefused, match=words):
        enqueue_many([good, NewTask(task_type="echo", **options)])
    assert not Task.objects.exists()


def test_a_type_that_is_too_long_is_refused():
    with pytest.raises(TaskRefused, match="1 to 100"):
        enqueue("x" * 101)


def test_a_key_that_is_taken_gives_the_holders_id(agent_id):
    first = enqueue("echo", unique_key="k")
    assert enqueue("other", unique_key="k") == first
    ids = enqueue_many([NewTask(task_type="echo", unique_key=key) for key in ("a", "k", "a")])
    assert ids[1] == first
    assert ids[0] == ids[2]
    assert Task.objects.count() == 2


def test_a_key_is_free_again_when_its_task_ends(agent_id):
    first = enqueue("echo", unique_key="k")
    assert finish(claim("echo", agent_id)[0], None)
    second = enqueue("echo", unique_key="k")
    assert second != first
    cancel([second])
    assert not UniqueKey.objects.exists()


def test_raw_sql_cannot_take_a_key_that_is_held():
    enqueue("echo", unique_key="k")
    with (
        pytest.raises(IntegrityError, match="unique key k is held"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute("INSERT INTO tasks.queue (task_type, unique_key) VALUES ('echo', 'k')")


def test_a_future_task_waits_and_a_due_one_does_not():
    now = timezone.now()
    assert status_of(enqueue("echo", scheduled_at=now + timedelta(hours=1))) == "pending"
    assert status_of(enqueue("echo", scheduled_at=now - timedelta(hours=1))) == "queued"


def test_the_last_dependency_to_complete_releases_a_task(agent_id):
    first, second = enqueue("echo"), enqueue("echo")
    waiting = enqueue("sum", depends_on=[first, second])
    finish(claim("echo", agent_id)[0], None)
    assert status_of(waiting) == "pending"
    finish(claim("echo", agent_id)[0], None)
    assert status_of(waiting) == "queued"


def test_what_waits_for_a_cancelled_task_is_cancelled_down_the_line():
    first = enqueue("echo")
    second = enqueue("echo", depends_on=[first])
    third = enqueue("echo", depends_on=[second])
    cancel([first], "not wanted")
    assert [status_of(task_id) for task_id in (first, second, third)] == ["cancelled"] * 3
    assert str(second) in Task.objects.get(pk=third).status_reason


def test_nothing_can_wait_for_what_was_cancelled_and_a_completed_one_does_not_block(agent_id):
    gone, done = enqueue("echo"), enqueue("other")
    cancel([gone])
    finish(claim("other", agent_id)[0], None)
    with pytest.raises(TaskRefused, match="failed or was cancelled"):
        enqueue("echo", depends_on=[gone])
    assert status_of(enqueue("echo", depends_on=[done])) == "queued"


@pytest.mark.django_db(transaction=True)
def test_of_two_that_enqueue_one_key_at_once_the_second_gets_the_first_ones_id():
    """The collision is certain: the second is seen waiting for the first one's transaction."""
    got = []

    def second() -> None:
        got.append(enqueue("echo", unique_key="k"))
        connection.close()

    with transaction.atomic():
        first = enqueue("echo", unique_key="k")
        thread = threading.Thread(target=second)
        thread.start()
        eventually(somebody_waits)
    thread.join(60)
    assert got == [first]
    assert Task.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_ticket_leaves_on_commit_and_not_on_rollback(monkeypatch):
    from tasks import tickets

    class Kept(tickets.Sender):  # of its own: another test's tickets may still be on their way to the broker
        def send_all(self, batch):
            sent.extend(task_type for task_type, _ in batch)
            return set()

    sent = []
    monkeypatch.setattr(tickets, "_sender", Kept())
    with transaction.atomic():
        enqueue("rolled-back")
        transaction.set_rollback(True)
    with transaction.atomic():
        enqueue("kept")
        assert tickets.flush(60)
        assert sent == []
    assert tickets.flush(60)
    assert sent == ["kept"]


# -- keys ---------------------------------------------------------------------------------------------------
def test_a_key_that_is_held_until_the_start_is_free_then(agent_id):
    first = enqueue("echo", unique_key="k", unique_until="start")
    assert enqueue("echo", unique_key="k", unique_until="start") == first
    claim("echo", agent_id)
    second = enqueue("echo", unique_key="k", unique_until="start")
    assert second != first
    assert UniqueKey.objects.get().task_id == second


def test_a_key_is_held_for_its_time_even_if_its_task_has_ended(agent_id):
    first = enqueue("echo", unique_key="k", unique_seconds=60)
    finish(claim("echo", agent_id)[0], None)
    assert enqueue("echo", unique_key="k") == first
    assert QUERIES.run("free_old_keys") == []
    UniqueKey.objects.update(held_until=timezone.now() - timedelta(hours=1))
    assert QUERIES.run("free_old_keys") == [{"unique_key": "k"}]
    assert enqueue("echo", unique_key="k") != first


def test_a_key_whose_time_is_over_is_held_while_its_task_is_open(agent_id):
    first = enqueue("echo", unique_key="k", unique_seconds=60)
    UniqueKey.objects.update(held_until=timezone.now() - timedelta(hours=1))
    assert QUERIES.run("free_old_keys") == []
    assert enqueue("echo", unique_key="k") == first
    finish(claim("echo", agent_id)[0], None)
    assert not UniqueKey.objects.exists()


def test_an_idempotent_call_is_done_once_a_day(agent_id):
    first = enqueue("echo", idempotency_key="order 1")
    finish(claim("echo", agent_id)[0], None)
    assert enqueue("echo", idempotency_key="order 1") == first
    assert Task.objects.count() == 1
    held = UniqueKey.objects.get().held_until - timezone.now()
    assert timedelta(hours=23) < held <= timedelta(hours=24)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"unique_until": "noon"}, "unique_until='noon'"),
        ({"unique_key": "k", "unique_seconds": 0}, "unique_seconds=0"),
        ({"unique_key": "k", "idempotency_key": "i"}, "not together"),
        ({"idempotency_key": "i" * 241}, "1 to 240"),
        ({"resources": [""]}, "resources=''"),
        ({"concurrency_key": ""}, "concurrency_key=''"),
    ],
)
def test_keys_and_resources_that_break_a_rule_are_refused(options, words):
    with pytest.raises(TaskRefused, match=words):
        enqueue("echo", **options)


def test_resources_are_stored_as_they_are_named():
    names = ['a "b"', "c,d", "e\\f", "{g}", "NULL"]
    assert Task.objects.get(pk=enqueue("echo", resources=names)).resources == names


# -- payloads -----------------------------------------------------------------------------------------------
SCHEMA = {
    "type": "object",
    "properties": {"pages": {"type": "array", "items": {"type": "integer", "minimum": 1}}},
    "required": ["pages"],
}


def test_a_payload_is_held_against_the_schema_of_its_type(handles):
    handles("print", len, payload_schema=SCHEMA)
    enqueue("print", {"pages": [1, 2]})
    with pytest.raises(TaskRefused, match=r"\$.pages\[1\]: 0 is less than the minimum of 1"):
        enqueue("print", {"pages": [1, 0]})
    with pytest.raises(TaskRefused, match="'pages' is a required property"):
        enqueue_many([NewTask(task_type="print", payload={"pages": []}), NewTask(task_type="print")])
    assert Task.objects.count() == 1


def test_a_schema_and_options_that_another_process_registered_hold_here_too(handles):
    handles("print", len, payload_schema=SCHEMA, max_retries=9, queue="paper")
    register_types()
    registry.forget_handler("print")
    known._learned.clear()
    with pytest.raises(TaskRefused, match="required property"):
        enqueue("print", {})
    task = Task.objects.get(pk=enqueue("print", {"pages": []}))
    assert (task.max_retries, known.last_known("print").queue) == (9, "paper")


def test_what_is_no_schema_is_refused_with_the_handler():
    with pytest.raises(Refused, match="payload_schema"):
        registry.handler("print", payload_schema={"type": "list"})
