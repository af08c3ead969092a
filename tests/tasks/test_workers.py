"""Real Celery processes on real servers."""

import os
import signal
from pathlib import Path

import psutil
import psycopg
import pytest

from agents.models import Agent
from tasks import tickets
from tasks.claim import cancel
from tasks.enqueue import NewTask, enqueue, enqueue_many
from tasks.models import Execution, Task, TaskType
from tasks.pauses import pause, resume
from tasks.sweep import sweep
from tests.tasks.conftest import eventually, status_of
from tests.tasks.fleet import handlers as _fleet  # noqa: F401  (this process enqueues with their options)

pytestmark = [pytest.mark.servers, pytest.mark.django_db(transaction=True)]


def has_status(task_id, status, timeout_seconds=60):
    return eventually(lambda: status_of(task_id) == status, timeout_seconds)


def sweep_until(look):
    """Sweep as beat does, until `look` sees what it waits for."""
    return eventually(lambda: sweep() and look())


def test_a_worker_runs_what_is_enqueued_and_is_a_registered_agent(worker):
    task_id = enqueue("fleet.pid")
    has_status(task_id, "completed")
    execution = Execution.objects.get(task_id=task_id)
    assert execution.result in worker.children()
    agent = Agent.objects.get(pk=execution.agent_id)
    assert (agent.agent_type, agent.status) == ("celery-worker", "active")
    assert agent.agent_name.endswith(f":{execution.result}")
    assert TaskType.objects.filter(pk__in=["echo", "fleet.pid"]).count() == 2


def test_many_tasks_run_once_each_on_both_processes(worker, tmp_path):
    ids = enqueue_many(NewTask(task_type="fleet.pid") for _ in range(300))
    eventually(lambda: Task.objects.filter(status="completed").count() == 300)
    assert Execution.objects.count() == 300
    assert set(Execution.objects.values_list("task_id", flat=True)) == set(ids)


def test_a_lost_ticket_is_made_up_for_by_the_sweep(worker, monkeypatch):
    monkeypatch.setattr(tickets, "send", lambda *ticket: None)
    task_id = enqueue("fleet.pid")
    assert tickets.flush(60)
    monkeypatch.undo()
    assert status_of(task_id) == "queued"
    sweep_until(lambda: status_of(task_id) == "completed")


def test_a_row_inserted_by_psql_runs_by_beat_alone(worker, celery):
    from operators.schedules import install_schedules

    install_schedules()
    with celery("beat", "--loglevel=INFO", f"--schedule={worker.path}.schedule", "--pidfile="):
        with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as session:
            session.execute("INSERT INTO tasks.queue (task_type) VALUES ('echo')")
        eventually(lambda: Task.objects.filter(task_type="echo", status="completed").exists(), 60)


def test_failures_are_tried_again_until_retries_are_spent(worker):
    twice, once = enqueue("fleet.fails"), enqueue("fleet.never")
    sweep_until(lambda: status_of(twice) == status_of(once) == "failed")
    messages = Execution.objects.filter(task_id=twice).values_list("error_message", flat=True)
    assert list(messages) == ["RuntimeError: out of luck"] * 2
    assert Execution.objects.get(task_id=once).error_message == "there is no such thing"


def test_a_handler_that_ignores_its_time_out_is_ended_with_its_process_and_not_its_neighbour(
    worker, tmp_path
):
    deaf = enqueue("fleet.deaf", {"dir": str(tmp_path)})
    neighbour = meet(tmp_path / "neighbour")
    task = eventually(lambda: Task.objects.filter(pk=deaf, status="failed").first())
    assert "ignored it" in task.status_reason
    pid = int((tmp_path / "running.1").read_text())
    eventually(lambda: not psutil.pid_exists(pid))
    (tmp_path / "neighbour" / "go.1").touch()
    has_status(neighbour, "completed")
    assert Execution.objects.get(task_id=neighbour).execution_attempt == 1


def meet(place: Path):
    """Start a task that runs until `go.1` is there; return its id once it runs."""
    place.mkdir(exist_ok=True)
    task_id = enqueue("fleet.meets", {"dir": str(place)})
    eventually(lambda: (place / "running.1").exists() and (place / "running.1").read_text())
    return task_id


def test_the_task_of_a_killed_process_is_taken_over_with_its_attempt_counted(worker, tmp_path):
    (tmp_path / "go.2").touch()
    task_id = meet(tmp_path)
    os.kill(int((tmp_path / "running.1").read_text()), signal.SIGKILL)
    sweep_until(lambda: status_of(task_id) == "completed")
    first, second = Execution.objects.filter(task_id=task_id).order_by("pk")
    assert (first.status, second.status, second.result) == ("failed", "completed", 2)
    assert "lease expired" in first.error_message
    assert Task.objects.get(pk=task_id).attempt == 2


def test_a_long_task_keeps_its_lease(worker, tmp_path):
    """It runs for longer than the lease of 2 seconds, while the sweep looks for expired ones."""
    task_id = meet(tmp_path)
    first = Task.objects.get(pk=task_id).lease_until
    sweep_until(lambda: (Task.objects.get(pk=task_id).lease_until - first).total_seconds() > 2)
    (tmp_path / "go.1").touch()
    has_status(task_id, "completed")
    assert Execution.objects.filter(task_id=task_id).count() == 1


def test_sigterm_lets_running_tasks_end_and_terminates_the_agents(worker, tmp_path):
    task_id = meet(tmp_path)
    worker.popen.send_signal(signal.SIGTERM)
    eventually(lambda: "Warm shutdown" in worker.log)
    (tmp_path / "go.1").touch()
    assert worker.popen.wait(30) == 0
    assert status_of(task_id) == "completed"
    assert not Agent.objects.filter(agent_type="celery-worker").exclude(status="terminated").exists()


def test_a_cancelled_task_that_does_not_listen_is_ended_with_its_process(worker, tmp_path):
    task_id = meet(tmp_path)
    cancel([task_id], "not wanted")
    pid = int((tmp_path / "running.1").read_text())
    eventually(lambda: not psutil.pid_exists(pid))
    assert status_of(task_id) == "cancelled"
    after = enqueue("fleet.pid")
    sweep_until(lambda: status_of(after) == "completed")


def test_a_paused_type_waits_and_a_resumed_one_runs(worker):
    pause("fleet.pid")
    waiting, other = enqueue("fleet.pid"), enqueue("echo")
    sweep_until(lambda: status_of(other) == "completed")
    assert status_of(waiting) == "queued"
    resume("fleet.pid")
    has_status(waiting, "completed")


def test_dependents_run_after_what_they_wait_for_without_a_sweep(worker):
    first = enqueue("fleet.pid")
    second = enqueue("echo", depends_on=[first])
    has_status(second, "completed")
    started = {item.task_id: item for item in Execution.objects.all()}
    assert started[second].started_at >= started[first].completed_at
