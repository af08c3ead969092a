"""An action asks for the reason first, and does nothing without one."""

import pytest
from django.contrib.auth.models import Permission, User

from operators.audit import Actor, record
from operators.models import AuditEntry, BulkJob

pytestmark = pytest.mark.django_db
JOBS, AUDIT = "/admin/operators/bulkjob/", "/admin/operators/auditentry/"


@pytest.fixture
def job():
    return BulkJob.objects.create(action="tests.double", requested_by="ann", via="admin", expected=3)


def choose(client, job, **more):
    return client.post(JOBS, {"action": "cancel", "_selected_action": [job.pk], **more}, follow=True)


def test_first_click_asks_and_changes_nothing(admin_client, job):
    page = choose(admin_client, job)
    assert b"Why?" in page.content
    assert b"tests.double" in page.content
    job.refresh_from_db()
    assert job.status == "queued"


def test_second_click_without_a_reason_asks_again(admin_client, job):
    page = choose(admin_client, job, confirmed="yes", reason="  ")
    assert b"This field is required" in page.content
    job.refresh_from_db()
    assert job.status == "queued"


def test_second_click_acts_and_is_in_the_audit(admin_client, admin_user, job):
    page = choose(admin_client, job, confirmed="yes", reason="wrong filter <b>")
    assert b"1 jobs stopped" in page.content
    job.refresh_from_db()
    assert job.status == "cancelled"
    entry = AuditEntry.objects.get()
    assert (entry.actor, entry.via, entry.reason) == (admin_user.username, "admin", "wrong filter <b>")
    assert entry.address == "127.0.0.1"
    listed = admin_client.get(AUDIT).content
    assert b"wrong filter &lt;b&gt;" in listed
    assert b"wrong filter <b>" not in listed


def test_who_may_only_look_is_neither_asked_nor_heard(client, job):
    user = User.objects.create_user("viewer", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_bulkjob"))
    client.force_login(user)
    assert b"Stop the selected jobs" not in client.get(JOBS).content
    choose(client, job, confirmed="yes", reason="because")
    job.refresh_from_db()
    assert job.status == "queued"


@pytest.mark.parametrize(
    ("text", "found"), [("ann", 1), ("tasks.cancel", 1), ("4711", 1), ("an", 0), ("471", 0)]
)
def test_audit_is_searched_by_actor_action_and_object(admin_client, text, found):
    record(Actor("ann", "admin"), "tasks.cancel", ["4711"])
    record(Actor("bob", "command"), "tasks.retry", ["4712"])
    assert admin_client.get(AUDIT, {"q": text}).context["cl"].result_count == found
