"""The look: every page wears it, the navigation leads everywhere, and nothing comes from elsewhere."""

import re

import pytest
from django.conf import settings
from django.contrib import admin
from django.contrib.auth.models import User
from django.urls import reverse
from django_celery_beat.models import PeriodicTask
from unfold.admin import ModelAdmin

from config.face import ROOMS
from tests.schema.catalog import room_models

pytestmark = pytest.mark.django_db
ELSEWHERE = re.compile(r"""(?:src|href|action|url\()\s*=?\s*["']?((?:https?:)?//[^"'\s)]+)""")


def linked() -> set[str]:
    return {model for _, entries in ROOMS for _, _, model in entries}


def test_every_admin_wears_the_theme():
    plain = [
        model._meta.label
        for model, shown in admin.site._registry.items()
        if not isinstance(shown, ModelAdmin)
    ]
    assert plain == [], "build it on pg.admin.RoomAdmin, or register it anew in cockpit/admin.py"


def test_the_navigation_leads_to_every_model():
    missing = {model._meta.label_lower for model in room_models()} - linked()
    assert missing == set(), "add it to config/face.py"


def test_the_navigation_names_models_that_there_are():
    assert linked() <= {model._meta.label_lower for model in admin.site._registry}


def test_the_home_page_shows_every_room(admin_client):
    page = admin_client.get(reverse("admin:index")).content.decode()
    assert all(f">{icon}<" in re.sub(r"\s+", "", page) for _, entries in ROOMS for _, icon, _ in entries)


@pytest.mark.parametrize("model", sorted(linked()))
def test_no_list_asks_another_host(admin_client, model):
    page = admin_client.get(reverse(f"admin:{model.replace('.', '_')}_changelist")).content.decode()
    assert ELSEWHERE.findall(page) == []


def test_forms_of_others_open(admin_client, admin_user):
    task = PeriodicTask.objects.exclude(interval=None).first()
    for name, row in (("auth_user", admin_user), ("django_celery_beat_periodictask", task)):
        assert admin_client.get(reverse(f"admin:{name}_add")).status_code == 200
        if row:
            page = admin_client.get(reverse(f"admin:{name}_change", args=[row.pk]))
            assert page.status_code == 200
            assert ELSEWHERE.findall(page.content.decode()) == []


def test_the_login_form_leads_home(client, admin_user):
    page = client.get(reverse("admin:login"))
    assert page.status_code == 200
    assert ELSEWHERE.findall(page.content.decode()) == []
    answer = client.post(reverse("admin:login"), {"username": admin_user.username, "password": "password"})
    assert answer.url == reverse(settings.LOGIN_REDIRECT_URL)


def test_the_navigation_hides_what_one_may_not_see(client):
    client.force_login(User.objects.create_user("nobody", is_staff=True))
    page = client.get(reverse("admin:index")).content.decode()
    assert reverse("admin:tasks_task_changelist") not in page


@pytest.mark.parametrize("path", ["/", "/admin/", "/admin/login/", "/admin/nowhere/", "/nowhere", "/healthz"])
def test_every_answer_says_what_a_page_may_load(admin_client, path):
    policy = admin_client.get(path)["Content-Security-Policy"]
    directives = {name: values for name, *values in (part.split() for part in policy.split(";"))}
    assert directives["default-src"] == ["'none'"]
    assert directives["script-src"] == ["'self'", "'unsafe-eval'"]
    assert "'unsafe-inline'" not in directives["style-src-elem"]
    assert not re.search(r"https?:|\*", policy)


@pytest.mark.parametrize(
    ("path", "entry"),
    [
        ("/admin/knowledge/fact/search/", "Search"),
        ("/admin/knowledge/fact/", "Facts"),
        ("/admin/tasks/task/add/", "Tasks"),
        ("/admin/tasks/tasktype/", "Types"),
    ],
)
def test_one_entry_of_the_navigation_is_marked(admin_client, path, entry):
    page = re.sub(r"\s+", " ", admin_client.get(path).content.decode())
    assert re.findall(r"active\"> <span[^>]*> \w+ </span> <span>([^<]+)</span>", page) == [entry]
