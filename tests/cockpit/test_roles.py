"""Viewer, operator, administrator: what each may do, through the admin."""

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, Permission, User
from django.urls import reverse

from cockpit.roles import OPERATOR_ALSO, ROLES, grant_rights
from tasks.enqueue import enqueue
from tasks.models import Task

pytestmark = pytest.mark.django_db


@pytest.fixture
def log_in(client):
    def as_role(role):
        user = User.objects.create_user(role, is_staff=True)
        user.groups.add(Group.objects.get(name=role))
        client.force_login(user)
        return user

    return as_role


def rights_of(role):
    return {
        f"{app}.{codename}"
        for app, codename in Permission.objects.filter(group__name=role).values_list(
            "content_type__app_label", "codename"
        )
    }


def cancel(client, task_id):
    data = {"action": "cancel_selected", "_selected_action": [str(task_id)]}
    data |= {"confirmed": "yes", "reason": "not wanted"}
    client.post(reverse("admin:tasks_task_changelist"), data)
    return Task.objects.values_list("status", flat=True).get(pk=task_id)


def test_migrate_makes_the_three_groups():
    assert set(ROLES) <= set(Group.objects.values_list("name", flat=True))
    assert rights_of("viewer") < rights_of("operator") < rights_of("administrator")
    assert len(rights_of("administrator")) == Permission.objects.count()


def test_a_viewer_has_nothing_but_views_and_none_of_people():
    assert all(".view_" in right for right in rights_of("viewer"))
    assert not any(right.startswith(("auth.", "admin.", "sessions.")) for right in rights_of("viewer"))


def test_an_operator_cannot_change_who_may_what_nor_retention_nor_schedules():
    assert not any(right.startswith(("auth.", "admin.")) for right in rights_of("operator"))
    assert "partitions.change_policy" not in rights_of("operator")
    assert "django_celery_beat.change_periodictask" not in rights_of("operator")


def test_an_operator_has_the_rights_that_actions_ask_for():
    assert {"recovery.verify_backup", "bridge.change_quarantinedrow", *OPERATOR_ALSO} <= rights_of("operator")


def test_granting_twice_changes_nothing_and_keeps_what_people_added():
    extra = Permission.objects.get(codename="add_channel")
    Group.objects.get(name="viewer").permissions.add(extra)
    before = {role: rights_of(role) for role in ROLES}
    for app in apps.get_app_configs():
        grant_rights(app, apps, "default")
    assert {role: rights_of(role) for role in ROLES} == before
    assert "messaging.add_channel" in rights_of("viewer")


def test_a_viewer_sees_the_fleet_and_cannot_cancel(client, log_in):
    log_in("viewer")
    task_id = enqueue("echo")
    assert "Ready tasks" in client.get(reverse("admin:index")).content.decode()
    assert client.get(reverse("admin:tasks_task_change", args=[task_id])).status_code == 200
    assert cancel(client, task_id) == "queued"


def test_an_operator_cancels(client, log_in):
    log_in("operator")
    assert cancel(client, enqueue("echo")) == "cancelled"
    assert client.get(reverse("admin:auth_user_changelist")).status_code == 403
