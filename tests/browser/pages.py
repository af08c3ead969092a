"""The pages that every run opens and holds to the same rules: see test_pages.py.

A new page of the admin is one line in PAGES: its name, and what finds its address. A new model needs none: its list
and one of its rows are opened as soon as the navigation (config/face.py) names it and the fleet has a row of it.
"""

from collections.abc import Callable
from typing import Any

from django.apps import apps
from django.contrib import admin
from django.db import connection
from django.test import RequestFactory
from django.urls import reverse

from config.face import ROOMS
from tests.browser.fleet import Fleet

Address = Callable[[Fleet], str]

PAGES: dict[str, Address] = {
    "home": lambda fleet: reverse("admin:index"),
    "failed task": lambda fleet: reverse("admin:tasks_task_change", args=[fleet.failed_task]),
    "graph of a task": lambda fleet: reverse("admin:tasks_task_graph", args=[fleet.waiting_task]),
    "add a task": lambda fleet: reverse("admin:tasks_task_add"),
    "add a pause": lambda fleet: reverse("admin:tasks_pause_add"),
    "history of an agent": lambda fleet: reverse("admin:agents_agent_history", args=[fleet.planner]),
    "plan of partitions": lambda fleet: reverse("admin:partitions_policy_plan"),
    "order a backup": lambda fleet: reverse("admin:recovery_backup_order"),
    "repair the store": lambda fleet: reverse("admin:recovery_upload_order"),
    "plan a restore": lambda fleet: reverse("admin:recovery_backup_plan"),
    "bring a part back": lambda fleet: reverse("admin:recovery_backup_partial"),
    "search": lambda fleet: reverse("admin:knowledge_fact_search"),
    "what was found": lambda fleet: reverse("admin:knowledge_fact_search") + "?q=command+line+options",
    "bridge, live": lambda fleet: reverse("admin:bridge_live"),
    "buckets and streams": lambda fleet: reverse("admin:bridge_topology"),
    "roll back": lambda fleet: reverse("admin:agents_checkpoint_rollback", args=[fleet.checkpoint]),
    "own password": lambda fleet: reverse("admin:password_change"),
}
READ_BY_ALL = {  # held against the rules of accessibility in every run
    "home",
    "failed task",
    "what was found",
}
MODELS = [model for _, entries in ROOMS for _, _, model in entries]


def list_of(model: str) -> str:
    """Return the address of the list of `model`, "<app label>.<name>"."""
    return reverse(f"admin:{model.replace('.', '_')}_changelist")


def row_of(model: str) -> str | None:
    """Return the address of the page of a row that the list of `model` has; None where there is none. One query."""
    pk = own_session() if model == "monitoring.activity" else first_of(model)
    return None if pk is None else reverse(f"admin:{model.replace('.', '_')}_change", args=[pk])


def first_of(model: str) -> Any:
    kind = apps.get_model(model)
    shown = admin.site.get_model_admin(kind).get_queryset(RequestFactory().get("/"))
    return shown.order_by("pk").values_list("pk", flat=True).first()


def own_session() -> int:
    """The session that is certain to be there when the page is opened: other tests' come and go."""
    connection.ensure_connection()
    pid: int = connection.connection.info.backend_pid
    return pid
