import pytest
from django.contrib.auth.models import Permission, User
from django.urls import reverse

from operators.models import AuditEntry
from tasks.claim import claim, finish
from tasks.enqueue import enqueue
from tasks.models import Limit, Pause, QueuePause
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
    "uniquekey",
    "taskidentity",
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


def act(client, action, *task_ids):
    data = {"action": action, "_selected_action": [str(task_id) for task_id in task_ids]}
    return client.post(reverse("admin:tasks_task_changelist"), data)


def test_an_operator_cancels_and_retries(admin_client):
    task_id = enqueue("echo")
    act(admin_client, "cancel_selected", task_id)
    assert status_of(task_id) == "cancelled"
    act(admin_client, "retry_selected", task_id)
    assert status_of(task_id) == "queued"


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
    from tasks.models import Task

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
