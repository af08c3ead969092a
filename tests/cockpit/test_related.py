"""Links between rows: each leads to a list that opens, filtered, and only where one may look."""

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.db import models
from django.urls import reverse

from agents.registry import register_agent
from pg.admin import RoomAdmin
from pg.uuid7 import uuid7
from tasks.claim import claim, finish
from tasks.enqueue import enqueue

pytestmark = pytest.mark.django_db
LINKS = [
    pytest.param(shown, link, id=f"{model._meta.label}-{link.title}")
    for model, shown in admin.site._registry.items()
    if isinstance(shown, RoomAdmin)
    for link in shown.related
]


@pytest.mark.parametrize(("shown", "link"), LINKS)
def test_a_link_leads_to_a_filtered_list(shown, link, admin_client):
    row = shown.model(pk=some_key(shown.model._meta.pk))
    if link.attribute != "pk":
        setattr(row, link.attribute, uuid7())
    answer = admin_client.get(link.url_for(row))
    assert answer.status_code == 200, "the list refused the filter"
    assert list(answer.context["cl"].result_list) == []


def some_key(field):
    """A key that no row has."""
    return 2**62 if isinstance(field, models.IntegerField) else uuid7()


def test_a_task_and_an_agent_show_their_links(admin_client):
    worker = register_agent("celery-worker", "w")
    task_id = enqueue("echo")
    finish(claim("echo", worker.pk)[0], {})
    page = admin_client.get(reverse("admin:tasks_task_change", args=[task_id]))
    links = dict(page.context["related_links"])
    assert {"Executions", "Worker", "Children"} <= set(links)
    assert "Parent" not in links  # it has none
    (execution,) = admin_client.get(links["Executions"]).context["cl"].result_list
    assert execution.task_id == task_id
    assert list(admin_client.get(links["Worker"]).context["cl"].result_list) == [worker]
    page = admin_client.get(reverse("admin:agents_agent_change", args=[worker.pk]))
    assert "Checkpoints" in page.content.decode()
    (found,) = admin_client.get(dict(page.context["related_links"])["Executions"]).context["cl"].result_list
    assert found == execution


def test_links_to_what_one_may_not_see_are_left_out(client):
    user = User.objects.create_user("narrow", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_task"))
    client.force_login(user)
    page = client.get(reverse("admin:tasks_task_change", args=[enqueue("echo")]))
    assert {title for title, _ in page.context["related_links"]} <= {"Children", "Graph", "Parent"}
