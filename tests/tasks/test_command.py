import json
from contextlib import nullcontext
from datetime import timedelta
from io import StringIO
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from operators.audit import Actor
from operators.models import AuditEntry, BulkJob
from pg.errors import Refused
from tasks.agent_types import register_for_agents
from tasks.claim import Failure, claim, fail, finish
from tasks.enqueue import enqueue
from tasks.models import Dependency, QueuePause, Task
from tasks.policy import Policy
from tests.tasks.conftest import status_of

pytestmark = pytest.mark.django_db


def tasks(*arguments, code=0):
    """Run the command; return its JSON."""
    out = StringIO()
    with pytest.raises(SystemExit, match=str(code)) if code else nullcontext():
        call_command("tasks", *map(str, arguments), "--json", stdout=out)
    return json.loads(out.getvalue())


def test_enqueue_list_show():
    (item,) = tasks("enqueue", "echo", '{"a": 1}', "--priority", "high", "--name", "mine")["items"]
    assert (item["status"], item["priority"]) == ("queued", "high")
    assert tasks("list", "--type", "echo", "--status", "queued")["items"] == [item]
    assert tasks("list", "--status", "failed")["items"] == []
    (shown,) = tasks("show", item["task_id"])["items"]
    assert (shown["payload"], shown["attempts"]) == ({"a": 1}, [])


def test_tasks_are_found_by_what_their_payload_holds():
    (item,) = tasks("enqueue", "echo", '{"order": 42, "lines": [1, 2]}')["items"]
    tasks("enqueue", "echo", '{"order": 43}')
    (number,) = tasks("enqueue", "echo", "0")["items"]
    assert tasks("list", "--payload", '{"order": 42}')["items"] == [item]
    assert tasks("list", "--payload", '{"lines": [2]}')["items"] == [item]
    assert tasks("list", "--payload", "0")["items"] == [number]
    assert tasks("list", "--payload", '{"order": 44}')["items"] == []


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["enqueue", "ehco"], "--any-type"),
        (["enqueue", "echo", "{"], "for instance"),
        (["list", "--payload", "{"], "for instance"),
        (["show", str(uuid4())], "tasks list"),
        (["rerun", str(uuid4())], "tasks list"),
        (["pause", "ehco"], "known here"),
    ],
)
def test_what_is_wrong_ends_with_2_and_a_hint(arguments, hint):
    with pytest.raises(CommandError) as caught:
        call_command("tasks", *arguments)
    assert caught.value.returncode == 2
    assert "HINT" in str(caught.value)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [["show", "x"], ["enqueue", "echo", "--scheduled-at", "2026-01-01"], ["list", "--limit", "0"]],
)
def test_arguments_that_cannot_be_read_end_with_2(arguments, capsys):
    from django.core.management import get_commands, load_command_class

    with pytest.raises(SystemExit) as caught:
        load_command_class(get_commands()["tasks"], "tasks").run_from_argv(["manage.py", "tasks", *arguments])
    assert caught.value.code == 2
    assert "error: argument" in capsys.readouterr().err


def test_an_unknown_type_can_be_enqueued_on_demand():
    assert tasks("enqueue", "outside", "--any-type")["ok"]


def test_cancel_and_retry_say_what_was_not_possible():
    task_id = enqueue("echo")
    assert tasks("cancel", task_id, "--reason", "no")["counts"] == {"cancelled": 1}
    answer = tasks("cancel", task_id, code=1)
    assert (answer["ok"], answer["warnings"]) == (False, [f"{task_id} is not open"])
    assert tasks("retry", task_id)["counts"] == {"retried": 1}
    assert tasks("retry", task_id, code=1)["counts"] == {"retried": 0}


def test_rerun_with_another_payload():
    (item,) = tasks("rerun", enqueue("echo", 1), "--payload", "2")["items"]
    assert Task.objects.get(pk=item["task_id"]).payload == 2


def test_redrive_plans_before_it_acts(agent_id):
    task_id = enqueue("echo", max_retries=0)
    fail(claim("echo", agent_id)[0], Failure("no luck"))
    (step,) = tasks("redrive", "--type", "echo", "--dry-run")["steps"]
    assert step["object"] == str(task_id)
    assert status_of(task_id) == "failed"
    assert tasks("redrive")["counts"] == {"redriven": 1}
    assert tasks("redrive", "--dry-run")["steps"] == []


def test_expire_plans_before_it_acts():
    task_id = enqueue("echo")
    past = timezone.now() - timedelta(hours=1)
    Task.objects.filter(pk=task_id).update(created_at=past, expires_at=past + timedelta(seconds=1))
    assert len(tasks("expire", "--dry-run")["steps"]) == 1
    assert status_of(task_id) == "queued"
    assert tasks("expire")["counts"] == {"expired": 1}


def test_pause_resume_and_types():
    tasks("pause", "echo", "--reason", "too hot")
    (echo,) = [item for item in tasks("types")["items"] if item["task_type"] == "echo"]
    assert (echo["paused"], echo["handler"]) == (True, "tasks.handlers.echo")
    assert tasks("resume", "echo")["items"][0]["changed"]
    assert not tasks("resume", "echo")["items"][0]["changed"]


def test_stats_count_by_type_and_status(agent_id, monkeypatch):
    from tasks import stats
    from tasks.leaves import register_types

    register_types()
    for _ in range(3):
        enqueue("echo")
    enqueue("outside")
    claim("echo", agent_id)
    answer = tasks("stats")
    rows = {(row["task_type"], row["status"]): row["number"] for row in answer["items"]}
    assert rows == {("echo", "queued"): 2, ("echo", "running"): 1, ("(unregistered)", "queued"): 1}
    assert answer["counts"] == {  # the keys are documented: docs/tasks.md, Figures
        "running": 1,
        "oldest_queued_age_seconds": 0,
        "completed_last_minute": 0,
        "failed_last_hour": 0,
        "workers": 0,
        "count_limit": 10_000,
    }
    assert answer["warnings"] == []
    assert {row["number"] for row in stats.count_tasks(limit=1)} == {1}
    monkeypatch.setattr(stats, "COUNT_LIMIT", 2)
    monkeypatch.setattr(stats.count_tasks, "__defaults__", (2,))
    assert tasks("stats")["warnings"] == ["echo queued: 2 or more"]


def test_limits_are_set_listed_and_removed():
    options = ["--max-running", "2", "--rate", "100/60", "--weight", "3", "--reason", "their server is small"]
    (item,) = tasks("limit", "type", "echo", *options)["items"]
    assert (item["max_running"], item["rate_limit"], item["rate_seconds"], item["weight"]) == (2, 100, 60, 3)
    assert item["declared_by"] == Actor.of_command().name
    assert tasks("limits")["items"] == [item]
    assert tasks("limit", "type", "echo", "--remove")["counts"] == {"removed": 1}
    assert tasks("limit", "type", "echo", "--remove", code=1)["warnings"] == ["type echo: there was no limit"]
    reasons = AuditEntry.objects.order_by("pk").values_list("action", "reason")
    assert list(reasons) == [("tasks.set_limit", "their server is small"), ("tasks.remove_limit", "")]


def test_a_queue_is_paused_until_a_moment():
    until = (timezone.now() + timedelta(hours=1)).isoformat()
    assert tasks("pause", "--queue", "gpu", "--until", until, "--reason", "hot")["items"][0]["changed"]
    assert QueuePause.objects.get().paused_until.isoformat() == until
    assert tasks("resume", "--queue", "gpu")["items"] == [{"queue": "gpu", "paused": False, "changed": True}]
    with pytest.raises(CommandError, match="in the future"):
        tasks("pause", "--queue", "gpu", "--until", "2020-01-01T00:00:00Z")


def test_kinds_of_dependencies_and_resources_are_given_by_option():
    first = tasks("enqueue", "echo", "--resource", "gpu", "--idempotency-key", "once")["items"][0]["task_id"]
    assert tasks("enqueue", "echo", "--idempotency-key", "once")["items"][0]["task_id"] == first
    tasks(
        "enqueue",
        "echo",
        "--depends-on",
        f"{first}:data:page",
        "--depends-on",
        tasks("enqueue", "echo")["items"][0]["task_id"],
    )
    kinds = Dependency.objects.order_by("dependency_type").values_list("dependency_type", "input_name")
    assert list(kinds) == [("completion", None), ("data", "page")]
    assert Task.objects.get(pk=first).resources == ["gpu"]
    with pytest.raises(CommandError, match="kind='wish'"):
        tasks("enqueue", "echo", "--depends-on", f"{first}:wish")


def test_many_are_counted_then_changed_by_a_job():
    enqueue("echo")
    enqueue("other")
    assert tasks("bulk", "cancel", "--type", "echo", "--dry-run")["counts"] == {"matching": 1}
    assert not BulkJob.objects.exists()
    (item,) = tasks("bulk", "cancel", "--type", "echo", "--reason", "wrong input")["items"]
    assert item["expected"] == 1
    assert BulkJob.objects.get(pk=item["job_id"]).parameters == {"task_type": "echo"}
    with pytest.raises(CommandError, match="reason is empty"):
        tasks("bulk", "cancel", "--type", "echo")
    (item,) = tasks("bulk", "pause", "--type", "echo", "--reason", "the disk fills")["items"]
    assert (item["action"], item["expected"]) == ("tasks.pause_all", 1)
    assert tasks("bulk", "resume", "--type", "echo", "--dry-run")["counts"] == {"matching": 0}


def test_finished_tasks_are_planned_then_removed(agent_id):
    task_id = enqueue("echo")
    finish(claim("echo", agent_id)[0], None)
    moment = timezone.now() - timedelta(days=3)
    Task.objects.filter(pk=task_id).update(created_at=moment, started_at=moment, completed_at=moment)
    assert tasks("prune", "--dry-run")["steps"] == []
    tasks("keep", "*", "--completed-days", "2", "--reason", "little room")
    (step,) = tasks("prune", "--dry-run")["steps"]
    assert step == {"action": "remove", "object": "1 completed tasks of *", "why": "older than 2 days"}
    assert tasks("prune")["counts"]["completed"] == 1


def test_recurring_tasks_are_set_shown_and_removed():
    options = ["--type", "echo", "--payload", "[1]", "--crontab", "0 3 * * *", "--catch-up", "all"]
    (item,) = tasks("cron", "nightly", *options)["items"]
    assert json.loads(item["options"]) == {"task_type": "echo", "payload": [1], "catch_up": "all"}
    assert tasks("cron")["items"] == [item]
    assert tasks("cron", "nightly", "--remove")["counts"] == {"removed": 1}
    assert tasks("cron", "nightly", "--remove", code=1)["warnings"] == ["nightly: no such recurring task"]


def test_children_go_with_their_parent():
    parent = enqueue("echo")
    child = enqueue("echo", parent=enqueue("echo", parent=parent))
    tasks("cancel", parent, "--children", "--reason", "the whole tree")
    assert status_of(child) == "cancelled"
    assert AuditEntry.objects.get().object_count == 3


def test_a_type_for_agents_is_registered_and_shown_and_one_with_a_handler_is_refused(handles):
    handles("mine", print)
    (made,) = tasks("register", "outside", "--max-retries", "7", "--rate", "10/60")["items"]
    assert made["leaf"].startswith("tasks.queue_outside_")
    (shown,) = [item for item in tasks("types")["items"] if item["task_type"] == "outside"]
    assert (shown["done_by"], shown["handler"], shown["max_retries"]) == ("agents", None, 7)
    with pytest.raises(Refused, match="has a handler"):
        register_for_agents("mine", Policy())


def test_a_single_task_is_paused_and_resumed():
    (item,) = tasks("enqueue", "echo")["items"]
    assert tasks("pause", "--task", item["task_id"], "--reason", "wait")["counts"] == {"paused": 1}
    assert status_of(item["task_id"]) == "paused"
    assert tasks("pause", "--task", item["task_id"], code=1)["warnings"]
    assert tasks("resume", "--task", item["task_id"])["counts"] == {"resumed": 1}
    assert status_of(item["task_id"]) == "queued"
    assert AuditEntry.objects.filter(action__in=["tasks.pause_tasks", "tasks.resume_tasks"]).count() == 2
