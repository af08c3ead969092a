"""The cockpit's view of the queue: tasks, and those that failed for good."""

import json
from functools import partial
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django import forms
from django.contrib import admin
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html

from operators.audit import Actor, record
from operators.bulk import request_bulk
from operators.confirm import reasoned_action
from pg.admin import BigTableAdmin, Related, TimeWindowFilter
from pg.errors import Refused
from pg.filters import read_moment
from tasks import records_admin, rules_admin  # noqa: F401  (each registers its pages)
from tasks.claim import cancel
from tasks.control import retry
from tasks.filters import PriorityFilter, StatusFilter, TypeFilter
from tasks.graph_page import show_graph
from tasks.known import policy_for
from tasks.models import (
    DeadLetter,
    Task,
    TaskStatus,
)
from tasks.payloads import find_fault
from tasks.task_pauses import pause_tasks, resume_tasks


class TaskForm(forms.ModelForm):
    def clean(self) -> Any:
        """Say of a new payload what the type's JSON Schema says, before anything is enqueued."""
        values = super().clean() or {}
        if "task_type" in values and "payload" in values:
            schema = policy_for(values["task_type"]).payload_schema
            fault = find_fault(values["payload"], schema) if schema is not None else None
            if fault:
                self.add_error("payload", f"does not match the schema of {values['task_type']}: {fault}")
        return values


@admin.register(Task)
class TaskAdmin(BigTableAdmin):
    form = TaskForm
    list_display = [
        "task_id",
        "task_type",
        "task_name",
        "status",
        "priority",
        "attempt",
        "created_at",
        "attempts",
    ]
    list_filter = [StatusFilter, TypeFilter, PriorityFilter, TimeWindowFilter]
    ordering = ["-task_id"]
    raw_id_fields = ["assigned_agent", "created_by_agent", "parent"]
    readonly_fields = [
        "task_id",
        "status",
        "status_reason",
        "started_at",
        "completed_at",
        "retry_count",
        "attempt",
        "worker",
        "lease_until",
        "blocked_by",
        "progress",
        "created_at",
        "updated_at",
        "attempts",
        "run_again",
    ]
    fieldsets = [
        (None, {"fields": [
            "task_type", "task_name", "status", "status_reason", "priority", "progress", "payload", "run_again"]}),
        ("Times", {"classes": ["tab"], "fields": [
            "created_at", "scheduled_at", "started_at", "completed_at", "expires_at", "lease_until", "updated_at"]}),
        ("Attempts", {"classes": ["tab"], "fields": [
            "attempt", "retry_count", "max_retries", "max_execution_time", "worker", "blocked_by"]}),
        ("Identity", {"classes": ["tab"], "fields": [
            "task_id", "assigned_agent", "created_by_agent", "parent", "unique_key", "concurrency_key", "resources",
            "configuration", "metadata"]}),
    ]  # fmt: skip
    related = [
        Related("Executions", "tasks.execution", "task"),
        Related("Parent", "tasks.task", "task_id", "parent_id"),
        Related("Children", "tasks.task", "parent"),
        Related("Waits for", "tasks.dependency", "task"),
        Related("Waited for by", "tasks.dependency", "depends_on"),
        Related("Worker", "agents.agent", "agent_id", "worker"),
        Related("Assigned agent", "agents.agent", "agent_id", "assigned_agent_id"),
        Related("Created by agent", "agents.agent", "agent_id", "created_by_agent_id"),
    ]
    actions = [
        "cancel_selected",
        "retry_selected",
        "pause_selected",
        "resume_selected",
        "cancel_matching",
        "retry_matching",
        "pause_matching",
        "resume_matching",
    ]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        fixed = ["task_type", "payload", "unique_key", "parent"]
        return [*self.readonly_fields, *fixed] if obj else self.readonly_fields

    def get_urls(self) -> list[Any]:
        page = self.admin_site.admin_view(partial(show_graph, model_admin=self))
        name = f"tasks_{self.opts.model_name}_graph"
        return [path("<uuid:pk>/graph/", page, name=name), *super().get_urls()]

    def related_links(self, request: HttpRequest, row: Any) -> list[tuple[str, str]]:
        page = reverse(f"admin:tasks_{self.opts.model_name}_graph", args=[row.pk])
        return [("Graph", page), *super().related_links(request, row)]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # cancel it instead; retention removes finished ones

    @admin.display(description="attempts")
    def attempts(self, task: Task) -> str:
        url = reverse("admin:tasks_execution_changelist")
        return format_html('<a href="{}?task_id__exact={}">attempts</a>', url, task.pk)

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """From "Run again": the old task's columns, its payload as JSON and not as a text."""
        initial: dict[str, Any] = super().get_changeform_initial_data(request)
        if "payload" in initial:
            initial["payload"] = json.loads(initial["payload"])
        return initial

    @admin.display(description="run again")
    def run_again(self, task: Task) -> str:
        kept = ("task_type", "task_name", "priority", "max_retries", "max_execution_time", "concurrency_key")
        values = {name: getattr(task, name) for name in kept if getattr(task, name) is not None}
        query = urlencode({**values, "payload": json.dumps(task.payload)})
        return format_html(
            '<a href="{}?{}">with this or another payload</a>', reverse("admin:tasks_task_add"), query
        )

    def save_model(self, request: HttpRequest, obj: Task, form: Any, change: bool) -> None:
        with transaction.atomic():
            super().save_model(request, obj, form, change)
            record(Actor.of_request(request), "tasks.change" if change else "tasks.enqueue", [obj.pk])

    @reasoned_action("Cancel", permissions=["change"])
    def cancel_selected(self, request: HttpRequest, rows: QuerySet[Task], by: Actor, reason: str) -> str:
        return told(cancel(chosen := ids_of(rows), reason, by), chosen, "cancelled")

    @reasoned_action("Retry failed and cancelled ones", permissions=["change"])
    def retry_selected(self, request: HttpRequest, rows: QuerySet[Task], by: Actor, reason: str) -> str:
        return told(retry(chosen := ids_of(rows), reason, by), chosen, "retried")

    @reasoned_action("Pause", permissions=["change"])
    def pause_selected(self, request: HttpRequest, rows: QuerySet[Task], by: Actor, reason: str) -> str:
        return told(pause_tasks(chosen := ids_of(rows), reason, by), chosen, "paused")

    @reasoned_action("Resume", permissions=["change"])
    def resume_selected(self, request: HttpRequest, rows: QuerySet[Task], by: Actor, reason: str) -> str:
        return told(resume_tasks(chosen := ids_of(rows), reason, by), chosen, "resumed")

    @reasoned_action("Cancel ALL that match the filters, as a bulk job", permissions=["change"])
    def cancel_matching(self, request: HttpRequest, rows: QuerySet[Task], by: Actor, reason: str) -> str:
        return ask_bulk("tasks.cancel_all", request, by, reason)

    @reasoned_action("Retry ALL that match the filters, as a bulk job", permissions=["change"])
    def retry_matching(self, request: HttpRequest, rows: QuerySet[Task], by: Actor, reason: str) -> str:
        return ask_bulk("tasks.retry_all", request, by, reason)

    @reasoned_action("Pause ALL that match the filters, as a bulk job", permissions=["change"])
    def pause_matching(self, request: HttpRequest, rows: QuerySet[Task], by: Actor, reason: str) -> str:
        return ask_bulk("tasks.pause_all", request, by, reason)

    @reasoned_action("Resume ALL that match the filters, as a bulk job", permissions=["change"])
    def resume_matching(self, request: HttpRequest, rows: QuerySet[Task], by: Actor, reason: str) -> str:
        return ask_bulk("tasks.resume_all", request, by, reason)


def ids_of(rows: QuerySet[Task]) -> list[UUID]:
    return list(rows.values_list("pk", flat=True))


def told(done: list[UUID], chosen: list[UUID], what: str) -> str:
    left = len(chosen) - len(done)
    return f"{len(done)} {what}" + (f"; {left} were not in a state for that" if left else "")


def ask_bulk(action: str, request: HttpRequest, by: Actor, reason: str, **fixed: str) -> str:
    """Request a bulk job for what the list's filters mean, whatever is ticked. Raises Refused without a filter."""
    names = ("task_type", "status", "priority")
    filters = {name: request.GET[name] for name in names if request.GET.get(name)} | fixed
    if request.GET.get("q"):
        raise Refused(
            "a search is no filter for a bulk job", "choose a type, a status or a priority on the right"
        )
    if window := TimeWindowFilter.windows.get(request.GET.get("within", "")):
        filters["created_after"] = (timezone.now() - window[1]).isoformat()
    for name, bound in (("from", "created_after"), ("to", "created_before")):
        if request.GET.get(name):
            filters[bound] = read_bound(name, request.GET[name])
    job = request_bulk(action, filters, by=by, reason=reason)
    return f"bulk job {job.pk}: {job.expected} tasks match now; see System, Bulk jobs"


def read_bound(name: str, text: str) -> str:
    try:
        return str(read_moment(name, text))
    except (ValueError, OverflowError) as error:
        raise Refused(f"time: {error}") from error


@admin.register(DeadLetter)
class DeadLetterAdmin(TaskAdmin):
    """Tasks that failed for good, and what to do about them."""

    list_display = [
        "task_id",
        "task_type",
        "task_name",
        "status_reason",
        "attempt",
        "completed_at",
        "attempts",
    ]
    list_filter = [TypeFilter, PriorityFilter, TimeWindowFilter]
    actions = ["retry_selected", "redrive_matching"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).filter(status=TaskStatus.FAILED)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    @reasoned_action("Retry ALL dead letters that match the filters, as a bulk job", permissions=["change"])
    def redrive_matching(self, request: HttpRequest, rows: QuerySet[Task], by: Actor, reason: str) -> str:
        return ask_bulk("tasks.retry_all", request, by, reason, status=TaskStatus.FAILED.value)
