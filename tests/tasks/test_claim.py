import threading
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.utils import timezone

from agents.registry import register_agent
from tasks import tickets
from tasks.claim import (
    Ended,
    Failure,
    cancel,
    claim,
    fail,
    finish,
    finish_and_claim_next,
    finish_many,
    heartbeat_leases,
    set_progress,
)
from tasks.control import redrive, rerun, retry
from tasks.enqueue import enqueue
from tasks.leaves import PARENT, leaf_of, register_types
from tasks.models import Execution, Task, TaskType
from tasks.pauses import pause, resume
from tasks.sweep import cancel_expired, promote_due, take_back_leases
from tests.tasks.conftest import eventually, somebody_waits, status_of

pytestmark = pytest.mark.django_db


@pytest.fixture(params=["in DEFAULT", "in its leaf"])
def echo(request):
    """The same holds for types with and without a leaf of their own."""
    if request.param == "in its leaf":
        register_types()
    assert (leaf_of("echo") == PARENT) == (request.param == "in DEFAULT")
    return "echo"


def expire_lease(task_id):
    Task.objects.filter(pk=task_id).update(lease_until=timezone.now() - timedelta(hours=1))


def test_a_claim_leases_the_task_and_opens_an_execution(echo, agent_id):
    task_id = enqueue(echo, {"a": 1}, timeout_seconds=120)
    (claimed,) = claim(echo, agent_id)
    assert (claimed.task_id, claimed.payload, claimed.attempt, claimed.timeout_seconds) == (
        task_id,
        {"a": 1},
        1,
        120,
    )
    task = Task.objects.get(pk=task_id)
    assert (task.status, task.worker, task.attempt) == ("running", agent_id, 1)
    assert timedelta(seconds=50) < task.lease_until - task.started_at < timedelta(seconds=70)
    execution = Execution.objects.get(pk=claimed.execution_id)
    assert (execution.task_id, execution.agent_id, execution.status) == (task_id, agent_id, "running")
    assert claim(echo, agent_id) == []


def test_the_best_priority_comes_first_then_the_oldest(echo, agent_id):
    names = [("low", "a"), ("normal", "b"), ("critical", "c"), ("normal", "d")]
    start = timezone.now()
    for seconds, (priority, name) in enumerate(names):
        task_id = enqueue(echo, name, priority=priority)
        Task.objects.filter(pk=task_id).update(created_at=start + timedelta(milliseconds=seconds))
    assert [item.payload for item in claim(echo, agent_id, limit=10)] == ["c", "b", "d", "a"]


def test_a_paused_type_is_not_claimed_until_it_is_resumed(echo, agent_id):
    enqueue(echo)
    assert pause(echo, "too hot")
    assert not pause(echo, "again")
    assert claim(echo, agent_id) == []
    assert resume(echo)
    assert not resume(echo)
    assert len(claim(echo, agent_id)) == 1


def test_only_the_assigned_agent_claims_a_task(echo, agent_id, other_id):
    enqueue(echo, assigned_agent=other_id)
    assert claim(echo, agent_id) == []
    assert len(claim(echo, other_id)) == 1


def test_finish_stores_the_result_once(echo, agent_id):
    task_id = enqueue(echo)
    (claimed,) = claim(echo, agent_id)
    assert finish(claimed, {"b": None})
    assert not finish(claimed, "again")
    execution = Execution.objects.get(task_id=task_id)
    assert (execution.status, execution.result) == ("completed", {"b": None})
    assert status_of(task_id) == "completed"


def test_a_result_of_none_is_a_result(echo, agent_id):
    enqueue(echo)
    assert finish(claim(echo, agent_id)[0], None)
    assert Execution.objects.get().status == "completed"


def test_finish_and_claim_next_hands_out_the_next_one(echo, agent_id):
    enqueue(echo, 1)
    enqueue(echo, 2)
    first = claim(echo, agent_id)[0]
    is_stored, (second,) = finish_and_claim_next(first, None)
    assert is_stored
    assert {first.payload, second.payload} == {1, 2}
    assert finish_and_claim_next(second, None) == (True, [])


@pytest.fixture
def asked(monkeypatch):
    """What the sending thread was asked for: the types, whether there is work, within how many seconds."""
    found = []

    def ask(types, has_work=False, within_seconds=0):
        found.append((list(types), has_work, within_seconds))

    monkeypatch.setattr(tickets._sender, "ask", ask)
    return found


@pytest.mark.django_db(transaction=True)
def test_others_are_told_of_work_only_where_a_turn_may_let_one_more_start(asked):
    """A worker that goes on with the next task takes the place of the one that ended."""
    agent_id = register_agent("test", "claims by itself").agent_id
    enqueue("echo"), enqueue("echo")
    (first,) = claim("echo", agent_id)
    _, (second,) = finish_and_claim_next(first, None)
    assert asked == [(["echo"], True, 0)] * 2
    finish(second, None)
    assert asked[2:] == [([], True, 0)]


@pytest.mark.django_db(transaction=True)
def test_others_are_called_a_little_later_to_what_a_worker_goes_on_with(asked):
    """What waits for a task of another type, or behind a worker that has nothing more to do, has no time."""
    agent_id = register_agent("test", "claims by itself").agent_id
    first = enqueue("echo", priority="high")
    for name in ("echo", "echo", "other"):
        enqueue(name, depends_on=[first])
    asked.clear()
    (item,) = claim("echo", agent_id)
    _, following = finish_and_claim_next(item, None)
    assert len(following) == 1
    assert asked == [(["other"], True, 0), (["echo"], True, tickets.HELP_SECONDS)]


def test_a_failure_is_tried_again_after_its_delay_until_retries_are_spent(echo, handles, agent_id):
    handles("again", lambda context: 1, retry_delay_seconds=1000, max_retries=1)
    task_id = enqueue("again")
    assert fail(claim("again", agent_id)[0], Failure("no luck", {"type": "X"})) == "pending"
    task = Task.objects.get(pk=task_id)
    assert (task.retry_count, task.status_reason, task.completed_at) == (1, "no luck", None)
    assert task.scheduled_at > timezone.now()
    Task.objects.filter(pk=task_id).update(scheduled_at=timezone.now() - timedelta(hours=1))
    assert promote_due() == 1
    assert fail(claim("again", agent_id)[0], Failure("no luck again")) == "failed"
    task.refresh_from_db()
    assert (task.status, task.status_reason, task.attempt) == ("failed", "no luck again", 2)
    attempts = Execution.objects.filter(task_id=task_id).order_by("pk")
    assert [item.error_message for item in attempts] == ["no luck", "no luck again"]
    assert attempts[0].error_details == {"type": "X"}


def test_a_permanent_failure_is_not_tried_again(echo, agent_id):
    task_id = enqueue(echo, max_retries=5)
    assert fail(claim(echo, agent_id)[0], Failure("never", is_permanent=True)) == "failed"
    assert Task.objects.get(pk=task_id).retry_count == 0


def test_an_expired_lease_is_taken_over_and_the_late_writer_changes_nothing(
    echo, agent_id, other_id, handles
):
    task_id = enqueue(echo, max_retries=3)
    (late,) = claim(echo, agent_id)
    expire_lease(task_id)
    assert take_back_leases() == 1
    assert take_back_leases() == 0
    Task.objects.filter(pk=task_id, status="pending").update(status="queued")
    (new,) = claim(echo, other_id)
    assert (new.attempt, new.retry_count) == (2, 1)
    assert not finish(late, "late")
    assert fail(late, Failure("late")) == "lost"
    assert not set_progress(late, 50, "late")
    assert heartbeat_leases(agent_id, [late]) == set()
    assert finish(new, "new")
    first, second = Execution.objects.filter(task_id=task_id).order_by("pk")
    assert (first.status, second.status, second.result) == ("failed", "completed", "new")
    assert "lease expired" in first.error_message


def test_the_same_agent_is_late_too_when_it_claimed_the_task_again(echo, agent_id):
    task_id = enqueue(echo)
    (late,) = claim(echo, agent_id)
    expire_lease(task_id)
    take_back_leases()
    Task.objects.filter(pk=task_id, status="pending").update(status="queued")
    (new,) = claim(echo, agent_id)
    assert not finish(late, "late")
    assert finish(new, "new")


def test_heartbeats_renew_the_lease_but_never_beyond_the_time_limit(echo, agent_id):
    task_id = enqueue(echo, timeout_seconds=1)
    (claimed,) = claim(echo, agent_id)
    expire_lease(task_id)
    assert heartbeat_leases(agent_id, [claimed]) == {task_id}
    task = Task.objects.get(pk=task_id)
    assert task.lease_until - task.started_at == timedelta(seconds=16)  # limit, grace 10, margin 5
    assert heartbeat_leases(agent_id, []) == set()


def test_cancel_ends_open_tasks_and_their_attempts(echo, agent_id):
    running = enqueue(echo)
    (claimed,) = claim(echo, agent_id)
    waiting = enqueue(echo)
    assert set(cancel([running, waiting], "no more")) == {running, waiting}
    assert cancel([running]) == []
    assert not finish(claimed, "late")
    execution = Execution.objects.get(task_id=running)
    assert (execution.status, execution.error_message) == ("cancelled", "no more")


def test_an_expired_task_is_not_claimed_and_the_sweep_cancels_it(echo, agent_id):
    task_id = enqueue(echo)
    long_ago = timezone.now() - timedelta(hours=1)
    Task.objects.filter(pk=task_id).update(created_at=long_ago, expires_at=long_ago + timedelta(minutes=1))
    assert claim(echo, agent_id) == []
    assert cancel_expired() == 1
    assert Task.objects.get(pk=task_id).status_reason == "expired"


def test_retry_opens_a_failed_task_with_all_its_retries(echo, agent_id):
    task_id = enqueue(echo, max_retries=0)
    fail(claim(echo, agent_id)[0], Failure("no luck"))
    assert retry([task_id]) == [task_id]
    assert retry([task_id]) == []
    assert claim(echo, agent_id)[0].attempt == 2


def test_redrive_retries_the_dead_letters_of_a_type(echo, agent_id):
    failed = enqueue(echo, max_retries=0)
    fail(claim(echo, agent_id)[0], Failure("no luck"))
    assert redrive("another type", 10) == []
    assert redrive(echo, 10) == [failed]


def test_rerun_makes_a_new_task(echo, agent_id):
    old = enqueue(echo, {"a": 1}, priority="high", max_retries=0)
    finish(claim(echo, agent_id)[0], None)
    new = Task.objects.get(pk=rerun(old, {"a": 2}))
    assert (new.payload, new.priority, new.status) == ({"a": 2}, "high", "queued")


@pytest.mark.django_db(transaction=True)
def test_two_claimers_never_get_the_same_task(agent_id, other_id):
    """The collision is certain: the first one's claim is not committed while the second one claims."""
    enqueue("echo", 1)
    enqueue("echo", 2)
    with transaction.atomic():
        first = claim("echo", agent_id)
        second = in_thread(lambda: claim("echo", other_id))
        third = in_thread(lambda: claim("echo", other_id))
    assert {first[0].payload, second[0].payload} == {1, 2}
    assert third == []


@pytest.mark.django_db(transaction=True)
def test_a_finish_that_waits_for_the_take_over_changes_nothing(agent_id):
    """The late finish is seen waiting for the row that the take-over holds."""
    task_id = enqueue("echo")
    (late,) = claim("echo", agent_id)
    expire_lease(task_id)
    answers = []
    with transaction.atomic():
        take_back_leases()
        thread = threading.Thread(
            target=lambda: answers.append(in_own_connection(lambda: finish(late, "late")))
        )
        thread.start()
        eventually(somebody_waits)
    thread.join(60)
    assert answers == [False]
    assert status_of(task_id) in ("pending", "queued")


@pytest.mark.django_db(transaction=True)
def test_a_finish_that_waits_for_a_heartbeat_ends_its_attempts_too(agent_id):
    """The rows change while the statement waits for them; its plan, kept, is cut down to one day's attempts."""
    register_types()
    for _ in range(3):
        enqueue("echo")
    claimed = claim("echo", agent_id, limit=3)
    answers = []
    with transaction.atomic():
        heartbeat_leases(agent_id, claimed)
        ended = [Ended(item, "done") for item in claimed]
        thread = threading.Thread(
            target=lambda: answers.append(in_own_connection(lambda: finish_many(ended)))
        )
        thread.start()
        eventually(somebody_waits)
    thread.join(60)
    assert answers == [{item.task_id for item in claimed}]
    assert list(Execution.objects.values_list("status", "result")) == [("completed", "done")] * 3


@pytest.mark.django_db(transaction=True)
def test_registering_a_type_moves_its_rows_while_somebody_writes(handles, agent_id):
    """A writer holds DEFAULT; the registration waits for it, and takes its row along."""
    handles("moved", lambda context: 1)
    old = enqueue("moved")
    answers = []
    with transaction.atomic():
        new = enqueue("moved")
        thread = threading.Thread(target=lambda: answers.append(in_own_connection(register_types)))
        thread.start()
        eventually(somebody_waits)
    thread.join(30)
    assert "moved" in answers[0]
    leaf = TaskType.objects.get(pk="moved").partition_name
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT task_id FROM {leaf}")
        assert {row[0] for row in cursor.fetchall()} == {old, new}
    assert {item.task_id for item in claim("moved", agent_id, limit=5)} == {old, new}
    assert register_types() == []


@pytest.mark.django_db(transaction=True)
def test_workers_that_register_at_once_all_succeed(handles):
    handles("shared", lambda context: 1)
    gate = threading.Barrier(4)
    answers = []

    def register():
        gate.wait(10)
        answers.append(in_own_connection(register_types))

    threads = [threading.Thread(target=register) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == 4
    assert TaskType.objects.filter(pk="shared").count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_claim_from_default_finishes_in_the_leaf_that_was_made_meanwhile(handles, agent_id):
    handles("moved", lambda context: 1)
    task_id = enqueue("moved")
    (claimed,) = claim("moved", agent_id)
    register_types()
    assert finish(claimed, "done")
    assert status_of(task_id) == "completed"


def in_own_connection(work):
    try:
        return work()
    finally:
        connection.close()


def in_thread(work):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(in_own_connection(work)))
    thread.start()
    thread.join(60)
    return answers[0]
