"""Several short tasks at once: none of them may notice."""

import sys
import threading
from datetime import timedelta

import pytest
from django.db import OperationalError
from django.utils import timezone

from operators.audit import Actor
from tasks import hand as hand_module
from tasks import jobs
from tasks.claim import Ended, Failure, cancel, claim, fail, finish_many, give_back
from tasks.company import find_suspect
from tasks.enqueue import NewTask, enqueue, enqueue_many
from tasks.hand import Hand, Pace
from tasks.limits import Bounds, set_limit
from tasks.models import Execution, Task
from tasks.sweep import take_back_leases
from tests.tasks.conftest import eventually, status_of

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_broker")]


def fill(task_type, number, **options):
    return enqueue_many(NewTask(task_type=task_type, payload=n, **options) for n in range(number))


def statuses(ids):
    return [status_of(task_id) for task_id in ids]


# -- how many -----------------------------------------------------------------------------------------------
def test_a_pace_begins_with_one_and_doubles_at_most():
    pace = Pace(most=50)
    sizes = [pace.size]
    for _ in range(7):
        pace.note(pace.size, 0.0001 * pace.size)
        sizes.append(pace.size)
    assert sizes == [1, 2, 4, 8, 16, 32, 50, 50]


def test_a_slow_task_counts_at_once_and_a_fast_one_by_and_by():
    pace = Pace(most=50)
    for _ in range(7):
        pace.note(10, 0.01)
    pace.note(50, 10.0)
    assert pace.size == 1
    pace.note(1, 0.001)
    assert pace.size == 1, "the mean is still 100 ms"
    for _ in range(10):
        pace.note(1, 0.001)
    assert pace.size > 20


def test_short_tasks_are_claimed_several_at_once_and_each_has_its_attempt(handles, this_worker):
    seen = []
    handles("mine", lambda context: seen.append(context.payload) or context.payload)
    ids = fill("mine", 40)
    assert jobs.run_ticket("mine") == 40
    assert sorted(seen) == list(range(40))
    assert this_worker.pace_of("mine").size > 4
    assert set(statuses(ids)) == {"completed"}
    attempts = Execution.objects.filter(task_id__in=ids)
    assert {attempt.task_id: attempt.result for attempt in attempts} == dict(zip(ids, range(40), strict=True))


def test_of_a_limited_type_one_is_claimed_at_a_time(handles, this_worker):
    most = []
    handles("mine", lambda context: most.append(Task.objects.filter(status="running").count()))
    set_limit("type", "mine", Bounds(max_running=10), Actor("ann", "command"))
    fill("mine", 12)
    assert jobs.run_ticket("mine") == 12
    assert set(most) == {1}, "what waits in a hand would take the places of what could run elsewhere"


# -- none suffers from the others -----------------------------------------------------------------------------
def test_a_failure_among_others_is_one_failure(handles, this_worker):
    handles("mine", lambda context: 1 // (context.payload - 7), max_retries=0)
    ids = fill("mine", 20)
    assert jobs.run_ticket("mine") == 20
    assert [n for n, status in enumerate(statuses(ids)) if status == "failed"] == [7]
    assert set(statuses(ids)) == {"completed", "failed"}


@pytest.mark.django_db(transaction=True)
def test_a_result_that_postgresql_refuses_takes_no_other_along(handles, this_worker):
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        handles("mine", lambda context: 10**140_000 if context.payload == 9 else 1)
        ids = fill("mine", 20)
        assert jobs.run_ticket("mine") == 20
    finally:
        sys.set_int_max_str_digits(before)
    assert [n for n, status in enumerate(statuses(ids)) if status != "completed"] == [9]
    assert "cannot be stored" in Task.objects.get(pk=ids[9]).status_reason


@pytest.mark.django_db(transaction=True)
def test_what_waits_behind_a_long_task_goes_back_and_what_is_done_is_stored(
    handles, this_worker, monkeypatch, other_id
):
    monkeypatch.setattr(hand_module, "ALONE_SECONDS", 0.05)
    release = threading.Event()
    handles("mine", lambda context: release.wait(30) if context.payload == 5 else None)
    ids = [enqueue("mine", n) for n in range(8)]  # one after the other: of one call's tasks, any may be first
    this_worker.pace_of("mine").size = 7
    this_worker.start()
    try:
        thread = threading.Thread(target=run_until_none_is_left)
        thread.start()
        eventually(lambda: statuses(ids[:5]) == ["completed"] * 5 and status_of(ids[7]) == "queued")
        assert statuses(ids[5:]) == ["running", "queued", "queued"]
        assert [item.task_id for item in claim("mine", other_id, limit=5)] == ids[6:]
    finally:
        release.set()
        thread.join(30)
        this_worker.stop("the test is over")
    assert status_of(ids[5]) == "completed"
    back = Task.objects.get(pk=ids[6])
    assert (back.attempt, back.retry_count) == (2, 0)
    first, second = Execution.objects.filter(task_id=ids[6]).order_by("execution_attempt")
    assert (first.status, first.error_message) == ("cancelled", "given back before it began")
    assert second.status == "running"


@pytest.mark.parametrize(
    ("mean_seconds", "called_at"), [(0.0, ["call", 0]), (0.019, [0, "call"]), (0.021, ["call", 0])]
)
def test_another_worker_is_called_before_a_task_that_may_take_long_and_after_a_short_one(
    handles, this_worker, no_broker, monkeypatch, mean_seconds, called_at
):
    seen = []
    handles("mine", lambda context: seen.append(context.payload))
    monkeypatch.setattr(jobs, "recruit", lambda task_type: seen.append("call") or False)
    this_worker.pace_of("mine").most = 1
    this_worker.pace_of("mine").mean_seconds = mean_seconds
    for number in range(3):
        enqueue("mine", number)
    jobs.run_ticket("mine")
    assert seen[:2] == called_at
    assert sorted(map(str, seen)) == ["0", "1", "2", "call"], "once per ticket"


def test_what_was_claimed_is_not_kept_where_calling_another_worker_fails(handles, this_worker, monkeypatch):
    """It would stay running for as long as this process renews its lease, and nobody ran it."""

    def fail(task_type):
        raise OperationalError("the server ended just now")

    handles("mine", lambda context: None)
    (task_id,) = fill("mine", 1)
    monkeypatch.setattr(jobs, "recruit", fail)
    with pytest.raises(OperationalError):
        jobs.run_ticket("mine")
    assert this_worker.hand.held() == []
    assert status_of(task_id) == "queued"


def run_until_none_is_left():
    from django.db import connection

    jobs.drain("mine", jobs.current_worker(), may_recruit=False)
    connection.close()


def test_an_exception_of_the_engine_leaves_nothing_in_the_hand(handles, this_worker, monkeypatch):
    handles("mine", lambda context: None)
    ids = fill("mine", 3)
    this_worker.pace_of("mine").size = 3

    def breaks(claimed, context, ours):
        raise RuntimeError("not the handler's")

    jobs.run_ticket("mine")
    ids = fill("mine", 3)
    monkeypatch.setattr(jobs, "claim", lambda *args: claim("mine", this_worker.agent_id, limit=3))
    monkeypatch.setattr(jobs, "run_handler", breaks)
    with pytest.raises(RuntimeError):
        jobs.run_ticket("mine")
    assert this_worker.hand.held() == []
    assert sorted(statuses(ids)) == ["queued", "queued", "running"]


def test_a_cancelled_task_that_waits_in_a_hand_is_not_run(this_worker):
    fill("echo", 3)
    first, second, third = claim("echo", this_worker.agent_id, limit=3)
    this_worker.hand.take([first, second, third])
    cancel([second.task_id])
    this_worker.beat()
    ran = []
    while running := this_worker.hand.begin_next():
        ran.append(running.claimed.task_id)
    assert ran == [first.task_id, third.task_id]


def test_a_beat_renews_the_lease_of_everything_in_the_hand(this_worker, agent_id):
    fill("echo", 3)
    hand = this_worker.hand
    hand.take(claim("echo", this_worker.agent_id, limit=3))
    hand.end(Ended(hand.begin_next().claimed))
    hand.begin_next()
    Task.objects.update(lease_until=None)
    this_worker.beat()
    assert Task.objects.filter(lease_until=None).count() == 0


# -- the statements -------------------------------------------------------------------------------------------
def test_many_are_finished_by_type_and_worker_and_lost_ones_are_left_out(agent_id, other_id):
    fill("echo", 3)
    fill("other", 1)
    items = claim("echo", agent_id, limit=2) + claim("echo", other_id) + claim("other", agent_id)
    ids = [item.task_id for item in items]
    cancel(ids[:1])
    assert finish_many([Ended(item, n) for n, item in enumerate(items)]) == set(ids[1:])
    results = dict(Execution.objects.filter(status="completed").values_list("task_id", "result"))
    assert results == {ids[1]: 1, ids[2]: 2, ids[3]: 3}
    assert finish_many([]) == set()


def test_giving_back_is_fenced(agent_id, other_id):
    fill("echo", 2)
    items = claim("echo", agent_id, limit=2)
    assert give_back(items[:1]) == [items[0].task_id]
    assert give_back(items[:1]) == []
    (again,) = claim("echo", other_id)
    assert (again.task_id, again.attempt) == (items[0].task_id, 2)
    assert finish_many([Ended(item) for item in items]) == {items[1].task_id}


def test_a_hand_is_held_up_only_by_what_is_long_and_not_alone(monkeypatch, agent_id):
    fill("echo", 2)
    hand = Hand()
    hand.take(claim("echo", agent_id, limit=2))
    running = hand.begin_next()
    assert not hand.is_held_up()
    running.began -= hand_module.ALONE_SECONDS + 1
    assert hand.is_held_up()
    hand.take_waiting()
    assert not hand.is_held_up()


# -- a process that ends with several in hand ---------------------------------------------------------------------
def die(worker_id):
    """Let a process end: its leases run out, and the sweep takes back what it had in hand."""
    Task.objects.filter(worker=worker_id, status="running").update(lease_until=timezone.now() - timedelta(1))
    return take_back_leases()


def test_what_a_dead_process_never_began_spends_no_retry_and_what_it_had_alone_does(this_worker):
    ids = fill("echo", 3, max_retries=1)
    claim("echo", this_worker.agent_id, limit=3)
    assert die(this_worker.agent_id) == 3
    assert statuses(ids) == ["queued"] * 3
    assert set(Task.objects.values_list("attempt", "retry_count")) == {(1, 0)}
    told = Execution.objects.values_list("status", "error_details__type", "error_details__in_hand")
    assert list(told) == [("failed", "lease_expired", 3)] * 3
    (alone,) = claim("echo", this_worker.agent_id)
    assert die(this_worker.agent_id) == 1
    task = Task.objects.get(pk=alone.task_id)
    assert (task.attempt, task.retry_count) == (2, 1)


def test_an_agent_that_is_no_celery_process_runs_all_that_it_has(agent_id):
    fill("echo", 3, max_retries=1)
    claim("echo", agent_id, limit=3)
    assert die(agent_id) == 3
    assert set(Task.objects.values_list("retry_count", flat=True)) == {1}


def test_after_that_each_of_them_runs_alone_and_then_several_at_once_again(handles, this_worker, other_id):
    most = []
    handles("mine", lambda context: most.append(Task.objects.filter(status="running").count()))
    ids = fill("mine", 6)
    claim("mine", this_worker.agent_id, limit=6)
    die(this_worker.agent_id)
    this_worker.pace_of("mine").size = 4
    assert jobs.run_ticket("mine") == 6
    assert most == [1] * 6
    assert set(statuses(ids)) == {"completed"}
    assert Execution.objects.filter(error_message="given back before it began").count() <= 3
    more = fill("mine", 30)
    most.clear()
    assert jobs.run_ticket("mine") == len(more)
    assert max(most) > 1


def test_a_task_that_was_given_back_after_such_an_end_still_runs_alone(this_worker):
    fill("echo", 2)
    claim("echo", this_worker.agent_id, limit=2)
    die(this_worker.agent_id)
    items = claim("echo", this_worker.agent_id, limit=2)
    assert find_suspect(items) in items
    give_back(items)
    again = claim("echo", this_worker.agent_id, limit=2)
    assert find_suspect(again) is not None
    finish_many([Ended(item) for item in again])


def test_what_comes_before_a_suspect_runs_first(handles, this_worker):
    ran = []
    handles("mine", lambda context: ran.append(context.payload))
    fill("mine", 3)
    claim("mine", this_worker.agent_id, limit=3)
    die(this_worker.agent_id)
    urgent = enqueue("mine", "urgent", priority="critical")
    this_worker.pace_of("mine").size = 4
    jobs.take(this_worker, "mine", claim("mine", this_worker.agent_id, limit=4))
    assert [item.task_id for item in this_worker.hand.held()] == [urgent]
    assert Task.objects.filter(status="queued").count() == 3
    assert jobs.run_waiting(this_worker.hand) == 1
    assert ran == ["urgent"]
    assert jobs.run_ticket("mine") == 3


def test_a_retry_after_a_failure_of_its_own_makes_nobody_a_suspect(this_worker):
    fill("echo", 2, max_retries=3)
    for item in claim("echo", this_worker.agent_id, limit=2):
        fail(item, Failure("no luck", delay_seconds=0))
    retried = claim("echo", this_worker.agent_id, limit=2)
    assert find_suspect(retried) is None
