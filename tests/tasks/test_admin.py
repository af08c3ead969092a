import html
import json
import re

import pytest
from django.contrib.auth.models import Permission, User
from django.urls import reverse

from operators.models import AuditEntry, BulkJob
from tasks.claim import Failure, claim, fail, finish
from tasks.enqueue import enqueue
from tasks.models import Execution, Limit, Pause, QueuePause, Task
from tests.tasks.conftest import status_of

pytestmark = pytest.mark.django_db
MODELS = [
    "task",
    "execution",
    "dependency",
    "tasktype",
    "pause",
    "queuepause",
    "limit",
    "resourceholder",
    "resourcewaiter",
    "deadletter",
    "retention",
    "recurringslot",
    "uniquekey",
    "taskidentity",
    "taskpause",
]


@pytest.fixture
def work(agent_id):
    """One task of each kind of row."""
    first = enqueue("echo", {"a": 1}, unique_key="k")
    enqueue("echo", depends_on=[first])
    finish(claim("echo", agent_id)[0], {"b": 2})
    Pause.objects.create(task_type="other")
    return first


@pytest.mark.parametrize("model", MODELS)
def test_every_list_opens(admin_client, work, model):
    assert admin_client.get(reverse(f"admin:tasks_{model}_changelist")).status_code == 200


def test_a_task_and_its_attempts_open(admin_client, work):
    assert admin_client.get(reverse("admin:tasks_task_change", args=[work])).status_code == 200
    page = admin_client.get(reverse("admin:tasks_execution_changelist"), {"task_id__exact": str(work)})
    assert page.status_code == 200
    (execution,) = page.context["cl"].result_list
    assert execution.task_id == work
    page = admin_client.get(reverse("admin:tasks_execution_change", args=[execution.pk]))
    assert str(work) in page.content.decode()


def act(client, action, *task_ids, model="task", query="", reason="because"):
    """Choose an action, and give the reason that it asks for."""
    data = {"action": action, "_selected_action": [str(task_id) for task_id in task_ids]}
    data |= {"confirmed": "yes", "reason": reason} if reason else {}
    return client.post(reverse(f"admin:tasks_{model}_changelist") + query, data, follow=True)


def test_an_operator_cancels_and_retries(admin_client):
    task_id = enqueue("echo")
    assert b"Why?" in act(admin_client, "cancel_selected", task_id, reason="").content
    assert status_of(task_id) == "queued"
    act(admin_client, "cancel_selected", task_id)
    assert status_of(task_id) == "cancelled"
    act(admin_client, "retry_selected", task_id)
    assert status_of(task_id) == "queued"
    entries = AuditEntry.objects.order_by("pk").values_list("action", "reason", "objects_touched")
    assert list(entries) == [
        ("tasks.cancel", "because", [str(task_id)]),
        ("tasks.retry", "because", [str(task_id)]),
    ]


def test_an_operator_pauses_a_task_and_resumes_it(admin_client):
    task_id = enqueue("echo")
    act(admin_client, "pause_selected", task_id)
    assert status_of(task_id) == "paused"
    listed = admin_client.get(reverse("admin:tasks_taskpause_changelist"))
    assert str(task_id) in listed.content.decode()
    act(admin_client, "resume_selected", task_id)
    assert status_of(task_id) == "queued"


def test_a_filter_becomes_a_bulk_job(admin_client):
    task_id = enqueue("echo")
    assert b"it is empty" in act(admin_client, "cancel_matching", task_id).content
    assert (
        b"a search is no filter"
        in act(admin_client, "cancel_matching", task_id, query=f"?q={task_id}").content
    )
    page = act(admin_client, "cancel_matching", task_id, query="?status=queued&within=1h")
    assert b"1 tasks match now" in page.content
    job = BulkJob.objects.get()
    assert (job.action, job.parameters["status"], job.reason) == ("tasks.cancel_all", "queued", "because")
    assert "created_after" in job.parameters
    assert (
        b"1 tasks match now" in act(admin_client, "pause_matching", task_id, query="?task_type=echo").content
    )
    assert (
        b"0 tasks match now" in act(admin_client, "resume_matching", task_id, query="?task_type=echo").content
    )


def test_dead_letters_are_the_failed_ones_and_are_redriven(admin_client, agent_id):
    other, dead = enqueue("echo", priority="low"), enqueue("echo")
    fail(claim("echo", agent_id)[0], Failure("out of luck", is_permanent=True))
    page = admin_client.get(reverse("admin:tasks_deadletter_changelist"))
    assert [row.pk for row in page.context["cl"].result_list] == [dead]
    assert b"out of luck" in page.content
    act(admin_client, "redrive_matching", dead, model="deadletter")
    assert BulkJob.objects.get().parameters == {"status": "failed"}
    act(admin_client, "retry_selected", dead, model="deadletter")
    assert (status_of(dead), status_of(other)) == ("queued", "queued")


def test_a_task_is_run_again_with_another_payload(admin_client):
    old = enqueue("echo", {"a": 1}, priority="high")
    page = admin_client.get(reverse("admin:tasks_task_change", args=[old])).content.decode()
    address = html.unescape(re.search(r'href="([^"]*/task/add/\?[^"]*)"', page)[1])
    form = admin_client.get(address).context["adminform"].form
    assert json.loads(form["payload"].value()) == {"a": 1}
    data = {name: form[name].value() or "" for name in form.fields} | {"payload": '{"a": 2}'}
    page = admin_client.post(address, data)
    assert page.status_code == 302, page.context["adminform"].form.errors
    new = Task.objects.exclude(pk=old).get()
    assert (new.payload, new.priority, new.status) == ({"a": 2}, "high", "queued")
    assert AuditEntry.objects.get().action == "tasks.enqueue"


def test_a_payload_that_does_not_match_its_schema_is_refused_in_the_form(admin_client, handles):
    handles("strict", len, payload_schema={"type": "object", "required": ["url"]})
    form = admin_client.get(reverse("admin:tasks_task_add")).context["adminform"].form
    data = {name: form[name].value() or "" for name in form.fields} | {"task_type": "strict", "payload": "{}"}
    page = admin_client.post(reverse("admin:tasks_task_add"), data)
    assert "does not match the schema of strict" in str(page.context["adminform"].form.errors["payload"])
    assert Task.objects.count() == 0
    data["payload"] = '{"url": "https://example.org"}'
    assert admin_client.post(reverse("admin:tasks_task_add"), data).status_code == 302
    assert Task.objects.get().payload == {"url": "https://example.org"}


def test_whoever_may_only_look_cannot_cancel(client):
    user = User.objects.create_user("viewer", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_task"))
    client.force_login(user)
    task_id = enqueue("echo")
    act(client, "cancel_selected", task_id)
    assert status_of(task_id) == "queued"


def test_a_task_added_in_the_admin_is_ready(admin_client):
    data = {
        "task_type": "echo",
        "payload": "{}",
        "configuration": "{}",
        "metadata": "{}",
        "priority": "high",
        "max_execution_time": "00:10:00",
        "max_retries": "3",
    }
    page = admin_client.post(reverse("admin:tasks_task_add"), data)
    assert page.status_code == 302, page.context["adminform"].form.errors
    assert Task.objects.get().status == "queued"


def test_a_limit_is_set_refused_and_removed(admin_client, admin_user):
    data = {"scope": "type", "name": "echo", "max_running": "2", "weight": "1", "rate_limit": "5"}
    page = admin_client.post(reverse("admin:tasks_limit_add"), data)
    assert "a rate needs a number and its seconds" in page.content.decode()
    page = admin_client.post(reverse("admin:tasks_limit_add"), {**data, "rate_seconds": "1"})
    assert page.status_code == 302, page.context["adminform"].form.errors
    limit = Limit.objects.get()
    assert (limit.max_running, limit.rate_limit, limit.declared_by) == (2, 5, admin_user.username)
    assert AuditEntry.objects.get().action == "tasks.set_limit"
    change = reverse("admin:tasks_limit_change", args=[limit.pk])
    assert admin_client.post(change, {"max_running": "3", "weight": "2"}).status_code == 302
    limit.refresh_from_db()
    assert (limit.name, limit.max_running, limit.weight, limit.rate_limit) == ("echo", 3, 2, None)
    admin_client.post(reverse("admin:tasks_limit_delete", args=[limit.pk]), {"post": "yes"})
    assert not Limit.objects.exists()


@pytest.mark.parametrize(("model", "field"), [("pause", "task_type"), ("queuepause", "queue")])
def test_a_pause_has_an_author_and_is_ended(admin_client, admin_user, model, field):
    add = reverse(f"admin:tasks_{model}_add")
    past = {"paused_until_0": "2020-01-01", "paused_until_1": "00:00:00"}
    page = admin_client.post(add, {field: "echo", "reason": "too hot", **past})
    assert "must be a moment in the future" in page.content.decode()
    assert admin_client.post(add, {field: "echo", "reason": "too hot"}).status_code == 302
    entry = AuditEntry.objects.get()
    assert (entry.actor, entry.reason, entry.objects_touched) == (admin_user.username, "too hot", ["echo"])
    admin_client.post(reverse(f"admin:tasks_{model}_delete", args=["echo"]), {"post": "yes"})
    assert AuditEntry.objects.count() == 2
    assert not Pause.objects.exists()
    assert not QueuePause.objects.exists()


def test_attempts_that_run_are_listed_and_those_that_ended_are_not(admin_client, agent_id):
    for _ in range(2):
        enqueue("echo")
    running, ended = claim("echo", agent_id, limit=2)
    finish(ended, None)
    page = admin_client.get(
        reverse("admin:tasks_execution_changelist"), {"status": "running"}
    ).content.decode()
    assert str(running.execution_id) in page
    assert str(ended.execution_id) not in page
    assert Execution.objects.filter(pk=ended.execution_id, status="completed").exists()
