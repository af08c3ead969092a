"""One process runs tasks by hand: what a ticket does, without Celery."""

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.utils import timezone

from monitoring.logs import current_ids
from tasks import jobs, registry, tickets, worker
from tasks.attempt_log import MAX_LINE_LENGTH, MAX_LINES
from tasks.claim import Claimed, cancel
from tasks.enqueue import enqueue
from tasks.models import Execution, Task
from tasks.policy import Retry, RetryLater
from tests.tasks.conftest import status_of

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_broker")]


def run(handles, function, payload=None, task_type="mine", **options):
    registry.forget_handler(task_type)
    handles(task_type, function, **{"max_retries": 0, **options})
    task_id = enqueue(task_type, payload)
    assert jobs.run_ticket(task_type) == 1
    return Task.objects.get(pk=task_id), Execution.objects.get(task_id=task_id)


def test_what_the_handler_returns_is_the_result(handles, this_worker):
    task, execution = run(handles, lambda context: {"got": context.payload["a"]}, {"a": [1, "ü"]})
    assert (task.status, execution.result) == ("completed", {"got": [1, "ü"]})
    assert execution.agent_id == this_worker.agent_id
    assert execution.cpu_time_ms is not None
    assert execution.memory_peak_mb > 1
    assert execution.io_operations is not None


def test_an_async_handler_works_on_the_same_database(handles, this_worker):
    async def work(context):
        await asyncio.sleep(0)
        assert await context.aprogress(50, "half")
        return str(await context.aspawn("echo", {"b": 1}))

    task, execution = run(handles, work)
    child = Task.objects.get(pk=execution.result)
    assert (child.parent_id, child.created_by_agent_id) == (task.pk, this_worker.agent_id)
    assert task.progress == {"note": "half", "percent": 50}


def test_a_handler_spawns_reports_and_sees_that_it_is_not_cancelled(handles, this_worker):
    def work(context):
        assert context.heartbeat()
        assert not context.is_cancelled()
        with pytest.raises(ValueError, match="0 to 100"):
            context.progress(101)
        return str(context.spawn("echo", unique_key="child"))

    task, execution = run(handles, work)
    assert Task.objects.get(pk=execution.result).parent_id == task.pk


def test_a_handler_sees_that_it_was_cancelled_and_its_result_is_dropped(handles, this_worker):
    seen = []

    def work(context):
        cancel([context.task_id], "stop")
        seen.append((context.is_cancelled(), context.progress(1)))
        return "late"

    task, execution = run(handles, work)
    assert seen == [(True, False)]
    assert (task.status, execution.status, execution.result) == ("cancelled", "cancelled", None)


def test_an_exception_is_recorded_with_its_traceback(handles, this_worker):
    def work(context):
        raise LookupError("no such thing \0 here")

    task, execution = run(handles, work)
    assert (task.status, execution.status) == ("failed", "failed")
    assert execution.error_message == "LookupError: no such thing \N{REPLACEMENT CHARACTER} here"
    assert execution.error_details["type"] == "builtins.LookupError"
    assert "in work" in execution.error_details["traceback"]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_no_exception_ends_the_worker(handles, this_worker, error):
    def work(context):
        raise error

    task, execution = run(handles, work)
    assert task.status == "failed"
    assert type(error).__name__ in execution.error_message


@pytest.mark.parametrize("result", [object(), {1, 2}, float("inf"), "a\0b", {"k": b"x"}, "\ud800"])
def test_a_result_that_json_cannot_hold_is_a_failure_that_says_so(handles, this_worker, result):
    task, execution = run(handles, lambda context: result, max_retries=5)
    assert task.status == "failed"
    assert "cannot be stored" in execution.error_message


@pytest.mark.django_db(transaction=True)
def test_a_result_that_postgresql_refuses_is_a_failure_that_says_so(handles, this_worker):
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        task, execution = run(handles, lambda context: 10**140_000, max_retries=5)
    finally:
        sys.set_int_max_str_digits(before)
    assert task.status == "failed"
    assert "cannot be stored" in execution.error_message


def test_a_handler_that_takes_too_long_is_interrupted(handles, this_worker):
    def work(context):
        while True:
            time.sleep(10)

    task, execution = run(handles, work, timeout_seconds=0.5)
    assert (task.status, task.status_reason) == ("failed", "timed out after 0.5 s")
    assert execution.error_details["type"] == "tasks.policy.TaskTimedOut"


def test_an_async_handler_that_takes_too_long_is_interrupted(handles, this_worker):
    async def work(context):
        await asyncio.Event().wait()

    assert run(handles, work, timeout_seconds=0.5)[0].status_reason == "timed out after 0.5 s"


def test_a_time_out_inside_an_async_handler_is_not_taken_for_ours(handles, this_worker):
    async def work(context):
        await asyncio.wait_for(asyncio.Event().wait(), 0.01)

    assert "TimeoutError" in run(handles, work)[0].status_reason


@pytest.mark.django_db(transaction=True)
def test_a_transaction_that_a_handler_leaves_open_is_rolled_back(handles, this_worker):
    def work(context):
        transaction.atomic().__enter__()
        enqueue("echo")

    task, _ = run(handles, work)
    assert task.status == "completed"
    assert not Task.objects.filter(task_type="echo").exists()
    assert not connection.in_atomic_block


def test_a_child_that_a_handler_forks_does_not_go_on_as_a_worker(handles, this_worker):
    def work(context):
        pid = os.fork()
        if pid:
            return os.waitpid(pid, 0)[1]
        return "from the child"

    with pytest.warns(DeprecationWarning, match="fork") if sys.version_info >= (3, 12) else nothing():
        _, execution = run(handles, work)
    assert execution.result == 0


def nothing():
    from contextlib import nullcontext

    return nullcontext()


def test_a_ticket_runs_all_that_is_ready_best_first(handles, this_worker):
    seen = []
    handles("mine", lambda context: seen.append(context.payload))
    for number, priority in enumerate(("low", "high", "normal")):
        enqueue("mine", number, priority=priority)
    assert jobs.run_ticket("mine") == 3
    assert seen == [1, 2, 0]
    assert jobs.run_ticket("mine") == 0


def test_a_ticket_whose_time_is_over_sends_its_successor(handles, this_worker, monkeypatch, no_broker):
    monkeypatch.setattr(jobs, "SLICE_SECONDS", 0)
    handles("mine", lambda context: 1)
    enqueue("mine")
    enqueue("mine")
    assert jobs.run_ticket("mine") == 1
    assert tickets.flush(60)
    assert sorted(no_broker) == [
        ("mine", False),
        ("mine", True),
    ]  # the successor, and a helper called at the start


def test_a_ticket_for_a_type_without_handler_changes_nothing(this_worker):
    task_id = enqueue("nobody")
    assert jobs.run_ticket("nobody") == 0
    assert status_of(task_id) == "queued"


def test_a_retry_at_once_is_run_by_the_same_ticket(handles, this_worker):
    def work(context):
        if context.attempt < 3:
            raise RuntimeError("not yet")
        return context.attempt

    handles("mine", work, max_retries=5, retry_delay_seconds=0)
    task_id = enqueue("mine")
    assert jobs.run_ticket("mine") == 3
    assert status_of(task_id) == "completed"
    assert Execution.objects.filter(task_id=task_id).count() == 3


def test_a_worker_whose_agent_was_terminated_registers_anew(this_worker):
    from agents.registry import terminate_agent

    terminate_agent(this_worker.agent_id, reason="by an operator")
    this_worker.beat()
    assert this_worker.is_retired
    new = worker.current_worker()
    try:
        assert new.agent_id != this_worker.agent_id
    finally:
        new.stopping.set()
        new.thread.join(60)


def test_a_time_limit_outside_the_main_thread_is_left_to_the_lease(handles):
    from tasks.run import time_limit

    answers = []

    def work():
        with time_limit(0.001):
            answers.append("ran")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == ["ran"]


def test_the_heartbeat_notices_a_task_that_was_cancelled(handles, this_worker, agent_id):
    from tasks.claim import claim

    task_id = enqueue("echo")
    claimed: Claimed = claim("echo", this_worker.agent_id)[0]
    running = this_worker.hand.begin(claimed)
    this_worker.beat()
    assert not running.is_lost
    cancel([task_id])
    this_worker.beat()
    assert running.is_lost
    assert running.context.is_cancelled()


def test_an_exception_with_a_rule_is_tried_again_by_it(handles, this_worker):
    def work(context):
        raise {"gone": FileNotFoundError, "slow": TimeoutError}[context.payload]("now")

    rules = {FileNotFoundError: None, TimeoutError: Retry(delay_seconds=1000, jitter=False, max_retries=1)}
    gone, _ = run(handles, work, "gone", max_retries=5, retry_rules=rules)
    assert (gone.status, gone.retry_count) == ("failed", 0)
    slow, _ = run(handles, work, "slow", max_retries=5, retry_rules=rules)
    assert (slow.status, slow.retry_count) == ("pending", 1)
    assert timedelta(seconds=900) < slow.scheduled_at - timezone.now() <= timedelta(seconds=1000)
    Task.objects.filter(pk=slow.pk).update(status="queued")
    assert jobs.run_ticket("mine") == 1
    slow.refresh_from_db()
    assert (slow.status, slow.retry_count) == ("failed", 1)


def test_a_handler_says_how_long_to_wait(handles, this_worker):
    def work(context):
        raise RetryLater("the other side asked for a pause", 500)

    task, execution = run(handles, work, max_retries=1)
    assert task.status == "pending"
    assert timedelta(seconds=400) < task.scheduled_at - timezone.now() <= timedelta(seconds=500)
    assert execution.error_message == "the other side asked for a pause"


def test_what_a_handler_logs_is_kept_with_its_attempt(handles, this_worker):
    def work(context):
        context.logger.warning("step %s", 1)
        logging.getLogger("a.library").warning("password=hunter2")
        raise ValueError("token=abcdef0123456789 is wrong")

    _, execution = run(handles, work)
    assert "WARNING tasks.mine: step 1" in execution.log_lines
    assert "a.library: password=[redacted]" in execution.log_lines
    assert execution.error_message == "ValueError: token=[redacted] is wrong"
    assert "abcdef" not in execution.error_details["traceback"].rpartition("ValueError")[2]
    logging.getLogger("a.library").warning("after the attempt")
    _, execution = run(handles, lambda context: None, task_type="quiet")
    assert execution.log_lines is None


def test_every_line_of_an_attempt_carries_its_ids(handles, this_worker):
    seen = []

    def work(context):
        seen.append((dict(current_ids()), context))

    run(handles, work)
    ((ids, context),) = seen
    assert ids == {
        "task_id": str(context.task_id),
        "attempt": "1",
        "agent_id": str(context.agent_id),
    }
    assert not current_ids()


def test_only_the_last_lines_are_kept_and_long_ones_are_cut(handles, this_worker):
    def work(context):
        for number in range(MAX_LINES + 5):
            context.logger.warning("line %s %s", number, "x" * 5000)

    _, execution = run(handles, work)
    lines = execution.log_lines.splitlines()
    assert lines[0] == "... 5 earlier lines are not kept"
    assert len(lines) == MAX_LINES + 1
    assert "line 5 " in lines[1]
    assert max(map(len, lines)) == MAX_LINE_LENGTH


def test_a_handler_reads_and_writes_the_state_of_its_agent(handles, this_worker):
    async def work(context):
        await context.awrite_state({"page": 2})
        return await context.aread_state()

    _, execution = run(handles, work)
    assert execution.result == {"page": 2}


def test_cpu_time_of_child_processes_counts(handles, this_worker):
    code = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
    _, execution = run(handles, lambda context: subprocess.run([sys.executable, "-c", code]).returncode)
    assert execution.cpu_time_ms >= 200


@pytest.mark.django_db(transaction=True)
def test_tasks_keep_the_connection_that_is_there(handles, this_worker):
    def work(context):
        used.append(connection.connection)
        connection.close_at = time.monotonic() - 1  # old, as any connection of a pool is at once

    used = []
    handles("mine", work)
    for _ in range(2):
        enqueue("mine")
    assert jobs.run_ticket("mine") == 2
    assert used[0] is used[1]


@pytest.mark.django_db(transaction=True)
def test_a_connection_that_a_handler_broke_is_replaced(handles, this_worker):
    def work(context):
        used.append(connection.connection)
        connection.connection.close()
        connection.errors_occurred = True

    used = []
    handles("mine", work)
    for _ in range(2):
        enqueue("mine")
    assert jobs.run_ticket("mine") == 2
    assert used[0] is not used[1]
    assert set(Task.objects.values_list("status", flat=True)) == {"completed"}
