"""Pauses of single tasks: waiting ones are set aside, running ones stand still where their handler lets them."""

import asyncio
import time
from datetime import timedelta

import pytest
from django.utils import timezone

from operators.audit import Actor
from operators.models import AuditEntry
from pg.errors import Refused
from tasks import jobs, run, task_pauses, tickets
from tasks.claim import cancel, claim, finish, heartbeat_leases
from tasks.enqueue import enqueue
from tasks.hand import Running
from tasks.models import Execution, Task, TaskPause
from tasks.policy import TaskTimedOut
from tasks.sweep import sweep, take_back_leases
from tasks.task_pauses import end_task_pauses, note_standing, pause_tasks, resume_tasks
from tests.tasks.conftest import status_of

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_broker")]
ME = Actor("ann", "command")


@pytest.fixture
def meanwhile(monkeypatch):
    """Something to happen while a handler stands still, each time that it looks."""
    steps = []
    monkeypatch.setattr(task_pauses.time, "sleep", lambda seconds: steps.pop(0)())
    return steps


# -- those that wait ----------------------------------------------------------------------------------------------
def test_a_waiting_task_is_set_aside_and_ready_again_when_it_is_resumed(
    agent_id, django_capture_on_commit_callbacks
):
    task_id = enqueue("echo")
    assert pause_tasks([task_id], "later", ME) == [task_id]
    assert pause_tasks([task_id], "again", ME) == []
    assert (status_of(task_id), Task.objects.get().status_reason) == ("paused", "later")
    assert claim("echo", agent_id) == []
    with django_capture_on_commit_callbacks(execute=True):
        assert resume_tasks([task_id], "now", ME) == [task_id]
    assert tickets.flush(30)
    assert resume_tasks([task_id]) == []
    assert [item.task_id for item in claim("echo", agent_id)] == [task_id]
    actions = AuditEntry.objects.order_by("pk").values_list("action", "reason")
    assert list(actions) == [("tasks.pause_tasks", "later"), ("tasks.resume_tasks", "now")]


def test_a_task_that_still_waits_for_something_goes_on_waiting(agent_id):
    first = enqueue("a")
    blocked = enqueue("echo", depends_on=[first])
    later = enqueue("echo", scheduled_at=timezone.now() + timedelta(hours=1))
    pause_tasks([blocked, later])
    resume_tasks([blocked, later])
    assert {status_of(blocked), status_of(later)} == {"pending"}
    pause_tasks([blocked])
    finish(claim("a", agent_id)[0], None)
    assert status_of(blocked) == "paused"
    resume_tasks([blocked])
    assert status_of(blocked) == "queued"


def test_a_pause_ends_at_its_time_and_one_of_a_task_that_ended_is_forgotten(agent_id):
    ids = [enqueue("echo") for _ in range(2)]
    pause_tasks(ids, until=timezone.now() + timedelta(hours=1))
    past = timezone.now() - timedelta(hours=1)
    TaskPause.objects.filter(pk=ids[0]).update(paused_at=past - timedelta(1), paused_until=past)
    assert end_task_pauses() == 1
    assert [status_of(task_id) for task_id in ids] == ["queued", "paused"]
    cancel(ids)
    sweep()
    assert not TaskPause.objects.exists()


@pytest.mark.parametrize("until", [timezone.now() - timedelta(1), timezone.now().replace(tzinfo=None)])
def test_a_pause_until_a_moment_that_passed_is_refused(until):
    with pytest.raises(Refused, match="in the future"):
        pause_tasks([enqueue("echo")], until=until)


def test_what_has_ended_cannot_be_paused(agent_id):
    task_id = enqueue("echo")
    cancel([task_id])
    assert pause_tasks([task_id]) == []
    assert resume_tasks([task_id]) == []


# -- those that run -----------------------------------------------------------------------------------------------
def test_a_running_task_stands_still_with_its_lease_until_it_is_resumed(handles, this_worker, meanwhile):
    seen = []

    def look():
        task, note = Task.objects.get(), TaskPause.objects.get()
        seen.append((task.status, task.status_reason, note.stands_since is not None))
        this_worker.beat()

    def work(context):
        assert context.wait_while_paused(), "it is not paused yet"
        pause_tasks([context.task_id], "look first")
        assert context.wait_while_paused()
        return Task.objects.get().status_reason

    handles("mine", work)
    task_id = enqueue("mine", timeout_seconds=100)
    meanwhile += [look, lambda: resume_tasks([task_id])]
    assert jobs.run_ticket("mine") == 1
    assert seen == [("running", "stands still: look first", True)]
    assert (status_of(task_id), Execution.objects.get().result) == ("completed", None)
    assert Task.objects.get().max_execution_time > timedelta(seconds=100)
    assert not TaskPause.objects.exists()


def test_an_async_handler_stands_still_too(handles, this_worker, meanwhile):
    async def work(context):
        assert await context.await_while_paused()
        return "done"

    handles("mine", work)
    task_id = enqueue("mine")

    async def pauses_first(context):
        from asgiref.sync import sync_to_async

        await sync_to_async(pause_tasks)([context.task_id])
        return await work(context)

    handles("yours", pauses_first)
    task_id = enqueue("yours")
    meanwhile.append(lambda: resume_tasks([task_id]))
    assert jobs.run_ticket("yours") == 1
    assert Execution.objects.get(task_id=task_id).result == "done"


def test_a_task_that_is_cancelled_while_it_stands_still_goes_on_to_its_end_at_once(
    handles, this_worker, meanwhile
):
    heard = []

    def work(context):
        pause_tasks([context.task_id])
        heard.append(context.wait_while_paused())

    handles("mine", work)
    task_id = enqueue("mine")
    meanwhile.append(lambda: cancel([task_id]))
    jobs.run_ticket("mine")
    assert heard == [False]
    assert status_of(task_id) == "cancelled"


def test_a_lease_of_what_stands_still_outlives_its_time_limit_and_any_other_does_not(agent_id):
    for _ in range(2):
        enqueue("echo", timeout_seconds=60)
    items = claim("echo", agent_id, limit=2)
    Task.objects.update(
        started_at=timezone.now() - timedelta(hours=2), created_at=timezone.now() - timedelta(hours=3)
    )
    pause_tasks([items[0].task_id])
    assert note_standing(items[0])
    heartbeat_leases(agent_id, items)
    assert take_back_leases() == 1
    assert [status_of(item.task_id) for item in items] == ["running", "pending"]


def test_the_next_attempt_of_a_paused_task_stands_still_as_well(handles, this_worker, meanwhile, other_id):
    task_id = enqueue("mine")
    (dead,) = claim("mine", other_id)
    pause_tasks([task_id])
    note_standing(dead)
    Task.objects.update(lease_until=timezone.now() - timedelta(minutes=1))
    take_back_leases()
    Task.objects.update(status="queued")
    sweep()
    assert TaskPause.objects.exists(), "its pause is not over"
    handles("mine", lambda context: context.wait_while_paused())
    meanwhile.append(lambda: resume_tasks([task_id]))
    assert jobs.run_ticket("mine") == 1
    assert meanwhile == []
    assert status_of(task_id) == "completed"


# -- clocks -------------------------------------------------------------------------------------------------------
def busy(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def test_the_time_limit_does_not_run_while_a_handler_stands_still():
    reached = []

    def work():
        with run.time_limit(0.2):
            with run.alarm_stopped():
                busy(0.4)
            reached.append("the end of the pause")
            busy(30)

    with pytest.raises(TaskTimedOut):
        work()
    assert reached


def test_nor_does_that_of_an_async_one():
    async def work():
        async with asyncio.timeout(0.2) as limit:
            with run.limit_stopped(limit):
                await asyncio.sleep(0.4)
            return "reached"

    assert asyncio.run(work()) == "reached"


def test_nor_the_hard_one_but_a_lost_task_has_the_grace_only(agent_id):
    enqueue("echo", timeout_seconds=5)
    running = Running(claim("echo", agent_id)[0])
    before = running.hard_limit
    with running.stand():
        assert running.hard_limit == float("inf")
    assert running.hard_limit >= before
    with running.stand():
        running.lose()
    assert running.hard_limit < before
