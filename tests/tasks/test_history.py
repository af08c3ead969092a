"""Finished tasks go when their time is over; many are changed at once; recurring ones are enqueued once per moment."""

import json
import threading
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, transaction
from django.utils import timezone
from django_celery_beat.models import PeriodicTask

from operators.audit import Actor
from operators.bulk import count_bulk, request_bulk, run_next_batch
from operators.models import AuditEntry, BulkJob
from pg.errors import Refused
from tasks import bulk, jobs, retention
from tasks.claim import Failure, cancel, claim, fail, finish
from tasks.enqueue import After, NewTask, enqueue, enqueue_many
from tasks.leaves import register_types
from tasks.models import Execution, RecurringSlot, Retention, Task, TaskPause
from tasks.recurring import enqueue_due, remove_recurring, set_recurring
from tasks.retention import keep, plan_prune, prune
from tasks.task_pauses import pause_tasks
from tests.tasks.conftest import eventually, somebody_waits, status_of

pytestmark = pytest.mark.django_db
ME = Actor("ann", "command")
NEVER = Failure("no luck", is_permanent=True)


# -- retention ----------------------------------------------------------------------------------------------
def ended(task_type, agent_id, status, days_ago):
    """A task that ended so many days ago."""
    task_id = enqueue(task_type)
    if status == "cancelled":
        cancel([task_id])
    else:
        claimed = claim(task_type, agent_id)[0]
        finish(claimed, None) if status == "completed" else fail(claimed, NEVER)
    moment = timezone.now() - timedelta(days=days_ago)
    Task.objects.filter(pk=task_id).update(created_at=moment, started_at=moment, completed_at=moment)
    return task_id


@pytest.mark.parametrize(("status", "days"), [("completed", 7), ("failed", 30), ("cancelled", 7)])
@pytest.mark.parametrize("task_type", ["echo", "nobody"])
def test_each_status_has_its_time_on_both_sides_of_the_boundary(agent_id, task_type, status, days):
    register_types()
    old, young = (
        ended(task_type, agent_id, status, days + 0.01),
        ended(task_type, agent_id, status, days - 0.01),
    )
    open_one = enqueue(task_type)
    Task.objects.filter(pk=open_one).update(created_at=timezone.now() - timedelta(days=100))
    ((rule, number),) = plan_prune()
    assert (rule.status, rule.keep_days, number) == (status, days, 1)
    assert prune() == {**dict.fromkeys(retention.STATUSES, 0), status: 1}
    assert set(Task.objects.values_list("pk", flat=True)) == {young, open_one}
    if status != "cancelled":
        assert Execution.objects.filter(task_id=old).exists(), "attempts outlive their task"


def test_the_handler_says_how_long_and_the_operator_says_otherwise(agent_id, handles):
    handles("mine", len, keep_completed_days=1)
    register_types()
    ended("mine", agent_id, "completed", 2)
    keep("mine", {"completed": 3, "failed": None, "cancelled": None}, ME, "an audit goes on")
    assert prune()["completed"] == 0
    Retention.objects.all().delete()
    assert prune()["completed"] == 1
    assert AuditEntry.objects.get().action == "tasks.keep"
    with pytest.raises(Refused, match="keep_failed_days=-1"):
        keep("mine", {"failed": -1}, ME)


def test_what_an_open_task_still_reads_is_kept(agent_id):
    first = enqueue("a")
    second = enqueue("b", depends_on=[After(first, "data")])
    finish(claim("a", agent_id)[0], {"n": 1})
    moment = timezone.now() - timedelta(days=50)
    Task.objects.filter(pk=first).update(created_at=moment, started_at=moment, completed_at=moment)
    assert prune()["completed"] == 0
    cancel([second])
    assert prune()["completed"] == 1


@pytest.mark.django_db(transaction=True)
def test_rows_that_somebody_holds_are_left_for_the_next_time(agent_id):
    held, free = (ended("a", agent_id, "completed", 50) for _ in range(2))
    got = []

    def other():
        got.append(prune())
        connection.close()

    with transaction.atomic():
        Task.objects.select_for_update().get(pk=held)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(60)
        assert got[0]["completed"] == 1
    assert list(Task.objects.values_list("pk", flat=True)) == [held]
    assert free not in Task.objects.values_list("pk", flat=True)


# -- bulk ---------------------------------------------------------------------------------------------------
def run_bulk():
    while run_next_batch():
        pass
    return BulkJob.objects.order_by("-pk")[0]


def test_all_that_match_are_cancelled_in_batches(monkeypatch, agent_id):
    monkeypatch.setattr("operators.bulk.BATCH_ROWS", 2)
    ids = enqueue_many(NewTask(task_type="a", payload=n) for n in range(5))
    other = enqueue("b")
    job = request_bulk("tasks.cancel_all", {"task_type": "a"}, by=ME, reason="wrong input")
    assert job.expected == 5
    finish(claim("a", agent_id)[0], None)
    job = run_bulk()
    assert (job.status, job.done, job.failed) == ("finished", 4, 0)
    assert sorted(map(status_of, ids)) == ["cancelled"] * 4 + ["completed"]
    assert status_of(other) == "queued"
    assert AuditEntry.objects.get().reason == "wrong input"


def test_a_retry_that_is_refused_does_not_hold_up_the_others():
    first = enqueue("a", unique_key="k")
    second = enqueue("a")
    cancel([first, second])
    holder = enqueue("b", unique_key="k")
    request_bulk("tasks.retry_all", {"task_type": "a"}, by=ME, reason="again")
    job = run_bulk()
    assert (job.status, job.done, job.failed) == ("finished", 1, 1)
    assert str(holder) in job.error
    assert [status_of(task_id) for task_id in (first, second)] == ["cancelled", "queued"]


def test_all_that_match_are_paused_and_resumed_those_that_run_too(monkeypatch, agent_id):
    monkeypatch.setattr("operators.bulk.BATCH_ROWS", 2)
    ids = enqueue_many(NewTask(task_type="a", payload=n) for n in range(4))
    other, (running,) = enqueue("b"), claim("a", agent_id)
    assert request_bulk("tasks.pause_all", {"task_type": "a"}, by=ME, reason="the disk fills").expected == 4
    job = run_bulk()
    assert (job.status, job.done, job.failed) == ("finished", 4, 0)
    assert sorted(map(status_of, ids)) == ["paused"] * 3 + ["running"]
    assert set(TaskPause.objects.values_list("pk", flat=True)) == set(ids)
    assert status_of(other) == "queued"
    assert claim("a", agent_id) == []
    finish(running, None)
    assert count_bulk("tasks.pause_all", {"task_type": "a"}) == 0
    assert request_bulk("tasks.resume_all", {"status": "paused"}, by=ME, reason="room again").expected == 3
    assert run_bulk().done == 3
    assert sorted(map(status_of, ids)) == ["completed"] + ["queued"] * 3


def test_a_running_task_that_is_to_stand_still_is_resumed_with_the_others(agent_id):
    task_id = enqueue("a")
    claim("a", agent_id)
    assert count_bulk("tasks.resume_all", {"task_type": "a"}) == 0
    pause_tasks([task_id])
    request_bulk("tasks.resume_all", {"task_type": "a"}, by=ME, reason="go on")
    assert run_bulk().done == 1
    assert not TaskPause.objects.exists()


@pytest.mark.parametrize(
    ("filters", "number"),
    [
        ({"task_type": "a"}, 2),
        ({"queue": "slow"}, 1),
        ({"priority": "high"}, 1),
        ({"status": "queued"}, 3),
        ({"error": "LUCK"}, 1),
        ({"created_after": "2020-01-01T00:00:00+00:00", "task_type": "c"}, 1),
        ({"created_before": "2020-01-01T00:00:00+00:00"}, 0),
    ],
)
def test_filters_mean_what_they_say(handles, agent_id, filters, number):
    handles("c", len, queue="slow", retry_delay_seconds=1000)
    register_types()
    enqueue("a", priority="high")
    enqueue("a")
    enqueue("c")
    fail(claim("c", agent_id)[0], Failure("no luck"))
    enqueue("d")
    count = bulk.counter("q.status IN ('pending', 'queued')")
    assert count(filters) == number


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({}, "empty"),
        ({"colour": "red"}, "unknown: colour"),
        ({"status": "lost"}, "status='lost'"),
        ({"created_before": "2020-01-01"}, "time zone"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(filters, words):
    with pytest.raises(Refused, match=words):
        request_bulk("tasks.cancel_all", filters, by=ME, reason="x")


# -- recurring ----------------------------------------------------------------------------------------------
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def every_hour(catch_up="one", last=NOON):
    options = {"task_type": "echo", "payload": {"a": 1}, "catch_up": catch_up}
    row = set_recurring("hourly", options, by=ME, crontab="0 * * * *")
    RecurringSlot.objects.update(last_slot=last)
    return row


def test_a_moment_is_enqueued_once_whoever_asks():
    every_hour()
    at = NOON + timedelta(hours=1, seconds=3)
    (task_id,) = enqueue_due("hourly", at)
    assert enqueue_due("hourly", at) == []
    task = Task.objects.get(pk=task_id)
    assert (task.payload, task.task_name) == ({"a": 1}, "hourly of 2026-03-01 13:00:00")
    assert RecurringSlot.objects.get().last_task_id == task_id
    assert enqueue_due("hourly", NOON + timedelta(hours=1, minutes=59)) == []
    assert len(enqueue_due("hourly", NOON + timedelta(hours=2))) == 1


@pytest.mark.parametrize(("catch_up", "number"), [("none", 0), ("one", 1), ("all", 5)])
def test_the_policy_decides_about_missed_moments(catch_up, number):
    every_hour(catch_up)
    assert len(enqueue_due("hourly", NOON + timedelta(hours=5, minutes=30))) == number
    assert enqueue_due("hourly", NOON + timedelta(hours=5, minutes=31)) == []
    assert len(enqueue_due("hourly", NOON + timedelta(hours=6))) == 1


def test_intervals_have_moments_too():
    set_recurring("often", {"task_type": "echo", "catch_up": "all"}, by=ME, every_seconds=20)
    RecurringSlot.objects.update(last_slot=NOON)
    assert enqueue_due("often", NOON + timedelta(seconds=19)) == []
    assert len(enqueue_due("often", NOON + timedelta(seconds=61))) == 3


def test_a_row_made_in_the_admin_begins_with_the_moment_that_beat_saw():
    every_hour()
    RecurringSlot.objects.all().delete()
    assert len(enqueue_due("hourly", NOON + timedelta(seconds=2))) == 1
    assert enqueue_due("hourly", NOON + timedelta(seconds=3)) == []


@pytest.mark.django_db(transaction=True)
def test_two_beats_at_once_enqueue_one_task():
    """The collision is certain: the second is seen waiting for the first one's transaction."""
    every_hour()
    at, got = NOON + timedelta(hours=1), []

    def second():
        got.extend(enqueue_due("hourly", at))
        connection.close()

    with transaction.atomic():
        assert len(enqueue_due("hourly", at)) == 1
        thread = threading.Thread(target=second)
        thread.start()
        eventually(somebody_waits)
    thread.join(60)
    assert got == []
    assert Task.objects.count() == 1


@pytest.mark.parametrize(
    ("options", "when", "words"),
    [
        ({"task_type": "echo"}, {}, "one of them"),
        ({"task_type": "echo"}, {"crontab": "* *"}, "five parts"),
        ({"task_type": "echo"}, {"crontab": "99 * * * *"}, "crontab='99"),
        ({"task_type": "echo", "colour": 1}, {"every_seconds": 5}, "colour"),
        ({"task_type": "echo", "catch_up": "two"}, {"every_seconds": 5}, "catch_up='two'"),
        ({"task_type": "echo", "priority": "asap"}, {"every_seconds": 5}, "priority='asap'"),
    ],
)
def test_a_recurring_task_that_could_not_be_enqueued_is_refused(options, when, words):
    with pytest.raises(Refused, match=words):
        set_recurring("x", options, by=ME, **when)
    assert not PeriodicTask.objects.filter(name="x").exists()


def test_the_job_takes_the_name_and_logs_what_it_cannot_do(caplog):
    row = every_hour(last=timezone.now() - timedelta(hours=2))
    assert len(jobs.enqueue_recurring(name="hourly", **json.loads(row.kwargs))) == 1
    assert jobs.enqueue_recurring(name="gone") == []
    assert "no such recurring task" in caplog.text
    assert remove_recurring("hourly", by=ME)
    assert not remove_recurring("hourly", by=ME)
    assert list(AuditEntry.objects.order_by("pk").values_list("action", flat=True)) == [
        "tasks.set_recurring",
        "tasks.remove_recurring",
    ]
