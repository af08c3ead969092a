"""The cockpit's view of the queue and its history."""

import json
from collections.abc import Sequence
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
from pg.admin import BigTableAdmin, ReadOnlyAdmin, Related, RoomAdmin, TimeWindowFilter
from pg.errors import MisterSmithError, Refused
from pg.filters import read_moment
from tasks.claim import cancel
from tasks.control import retry
from tasks.graph_page import show_graph
from tasks.known import DONE_BY, FOR_AGENTS, policy_for
from tasks.limits import BOUNDS, Bounds, check_limit, remove_limit, set_limit
from tasks.models import (
    DeadLetter,
    Dependency,
    Execution,
    Limit,
    Pause,
    QueuePause,
    RecurringSlot,
    ResourceHolder,
    ResourceWaiter,
    Retention,
    Task,
    TaskIdentity,
    TaskPause,
    TaskPriority,
    TaskStatus,
    TaskType,
    UniqueKey,
)
from tasks.pauses import check_until, pause, pause_queue, resume, resume_queue
from tasks.payloads import find_fault
from tasks.retention import STATUSES, keep
from tasks.task_pauses import pause_tasks, resume_tasks


class TypeFilter(admin.SimpleListFilter):
    """Registered types: a list of the types that occur would read every row."""

    title = "type"
    parameter_name = "task_type"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in TaskType.objects.order_by("pk").values_list("pk", flat=True)[:200]]

    def has_output(self) -> bool:
        return True  # else a type that nobody has registered would filter nothing

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(task_type=self.value()) if self.value() else queryset


class StatusFilter(admin.SimpleListFilter):
    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(value), str(label)) for value, label in TaskStatus.choices]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(status=self.value()) if self.value() in TaskStatus.values else queryset


class AttemptStatusFilter(StatusFilter):
    """An attempt that runs has no end: that finds it, where its status would be looked for in all of history."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        rows = super().queryset(request, queryset)
        return rows.filter(completed_at=None) if self.value() == TaskStatus.RUNNING else rows


class PriorityFilter(StatusFilter):
    title = "priority"
    parameter_name = "priority"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(value), str(label)) for value, label in TaskPriority.choices]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(priority=self.value()) if self.value() in TaskPriority.values else queryset


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


@admin.register(Retention)
class RetentionAdmin(RoomAdmin):
    list_display = [
        "task_type",
        "keep_completed_days",
        "keep_failed_days",
        "keep_cancelled_days",
        "declared_by",
    ]
    search_fields = ["task_type"]
    readonly_fields = ["declared_by", "updated_at"]

    def save_model(self, request: HttpRequest, obj: Retention, form: Any, change: bool) -> None:
        days = {status: getattr(obj, f"keep_{status}_days") for status in STATUSES}
        keep(obj.task_type, days, by=Actor.of_request(request))


@admin.register(RecurringSlot)
class RecurringSlotAdmin(ReadOnlyAdmin):
    list_display = ["name", "last_slot", "last_task_id"]
    search_fields = ["name"]


@admin.register(Execution)
class ExecutionAdmin(ReadOnlyAdmin, BigTableAdmin):
    list_display = [
        "execution_id",
        "task_id",
        "execution_attempt",
        "status",
        "started_at",
        "completed_at",
        "agent",
    ]
    list_filter = [AttemptStatusFilter, TimeWindowFilter]
    list_select_related = ["agent"]
    ordering = ["-execution_id"]
    uuid_search_fields = ["pk", "task_id"]
    search_help_text = "Paste the id of an execution or of a task."
    exclude = ["task", "log_lines"]
    readonly_fields = ["task_link", "log"]
    related = [
        Related("Task", "tasks.task", "task_id", "task_id"),
        Related("All attempts of the task", "tasks.execution", "task", "task_id"),
        Related("Agent", "agents.agent", "agent_id", "agent_id"),
    ]

    def get_rare_filters(self, request: HttpRequest) -> Sequence[str]:
        """Attempts that run have an index of their own: those are found however old they are."""
        return [] if request.GET.get("status") == TaskStatus.RUNNING else ["status"]

    def lookup_allowed(self, lookup: str, value: Any, request: Any = None) -> bool:
        return lookup == "task_id__exact" or super().lookup_allowed(lookup, value, request)

    @admin.display(description="log (last lines)")
    def log(self, execution: Execution) -> str:
        return format_html(
            '<pre class="overflow-x-auto">{}</pre>', execution.log_lines or "nothing was logged"
        )

    @admin.display(description="task")
    def task_link(self, execution: Execution) -> str:
        """A task may be gone by now: its executions outlive it."""
        url = reverse("admin:tasks_task_change", args=[execution.task_id])
        return format_html('<a href="{}">{}</a>', url, execution.task_id)


@admin.register(Dependency)
class DependencyAdmin(BigTableAdmin):
    list_display = ["task_id", "depends_on_id", "dependency_type", "input_name", "released_at", "created_at"]
    ordering = ["-dependency_id"]
    raw_id_fields = ["task", "depends_on"]
    readonly_fields = ["dependency_id", "released_at", "created_at"]
    uuid_search_fields = ["pk", "task_id", "depends_on_id"]
    related = [
        Related("Task", "tasks.task", "task_id", "task_id"),
        Related("Waits for the task", "tasks.task", "task_id", "depends_on_id"),
    ]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # the counter of open dependencies is kept at insert


@admin.register(TaskType)
class TaskTypeAdmin(ReadOnlyAdmin):
    list_display = ["task_type", "queue", "done_by", "partition_name", "registered_at"]
    search_fields = ["task_type"]

    @admin.display(description="done by")
    def done_by(self, row: TaskType) -> str:
        return "agents on NATS" if row.options.get(DONE_BY) == FOR_AGENTS else "workers"


class LimitForm(forms.ModelForm):
    """The table's rules, said beside the form before it is saved."""

    def clean(self) -> Any:
        values = super().clean() or {}
        row = {name: values.get(name, getattr(self.instance, name)) for name in ("scope", "name", *BOUNDS)}
        try:
            check_limit(row["scope"], row["name"], Bounds(**{name: row[name] for name in BOUNDS}))
        except MisterSmithError as error:
            raise forms.ValidationError(str(error)) from error
        return values


@admin.register(Limit)
class LimitAdmin(RoomAdmin):
    list_display = [
        "scope", "name", "max_running", "max_running_per_key", "rate_limit", "rate_seconds", "fair_keys", "weight",
        "declared_by"]  # fmt: skip
    list_filter = ["scope"]
    search_fields = ["name"]
    readonly_fields = ["declared_by", "updated_at"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return [*self.readonly_fields, "scope", "name"] if obj else self.readonly_fields

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        return super().get_form(request, obj, change, form=LimitForm, **kwargs)

    def save_model(self, request: HttpRequest, obj: Limit, form: Any, change: bool) -> None:
        bounds = Bounds(**{name: getattr(obj, name) for name in BOUNDS})
        obj.pk = set_limit(obj.scope, obj.name, bounds, by=Actor.of_request(request)).pk

    def delete_model(self, request: HttpRequest, obj: Limit) -> None:
        remove_limit(obj.scope, obj.name, by=Actor.of_request(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Limit]) -> None:
        for row in list(queryset):
            self.delete_model(request, row)


class PausingAdmin(RoomAdmin):
    """A pause has an author, and an end in the future or none; it is ended, never changed."""

    readonly_fields = ["paused_by", "paused_at"]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        return super().get_form(request, obj, change, form=PauseForm, **kwargs)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        by = Actor.of_request(request)
        (pause_queue if isinstance(obj, QueuePause) else pause)(obj.pk, obj.reason, by, obj.paused_until)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        by = Actor.of_request(request)
        (resume_queue if isinstance(obj, QueuePause) else resume)(obj.pk, by=by)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        for row in list(queryset):
            self.delete_model(request, row)


class PauseForm(forms.ModelForm):
    def clean_paused_until(self) -> Any:
        until = self.cleaned_data["paused_until"]
        try:
            check_until(until)
        except MisterSmithError as error:
            raise forms.ValidationError(str(error)) from error
        return until


@admin.register(QueuePause)
class QueuePauseAdmin(PausingAdmin):
    list_display = ["queue", "reason", "paused_by", "paused_at", "paused_until"]
    search_fields = ["queue"]


@admin.register(Pause)
class PauseAdmin(PausingAdmin):
    list_display = ["task_type", "reason", "paused_by", "paused_at", "paused_until"]
    search_fields = ["task_type"]


@admin.register(TaskPause)
class TaskPauseAdmin(ReadOnlyAdmin, BigTableAdmin):
    """Single tasks that are paused, by the actions of the list of tasks."""

    list_display = [
        "task_id",
        "reason",
        "paused_by",
        "paused_at",
        "paused_until",
        "stands_since",
        "resumed_at",
    ]
    ordering = ["-task_id"]
    uuid_search_fields = ["pk"]
    related = [Related("Task", "tasks.task", "task_id", "task_id")]


@admin.register(UniqueKey)
class UniqueKeyAdmin(ReadOnlyAdmin, BigTableAdmin):
    list_display = ["unique_key", "task_id", "held_until", "free_at_start"]
    search_fields = ["unique_key"]
    uuid_search_fields = ["task_id"]


@admin.register(ResourceHolder)
class ResourceHolderAdmin(ReadOnlyAdmin, BigTableAdmin):
    list_display = ["resource", "task_id", "held_since"]
    search_fields = ["resource"]
    uuid_search_fields = ["task_id"]


@admin.register(ResourceWaiter)
class ResourceWaiterAdmin(ReadOnlyAdmin, BigTableAdmin):
    list_display = ["task_id", "task_type", "resource", "priority", "waits_since"]
    search_fields = ["resource"]
    uuid_search_fields = ["task_id"]


@admin.register(TaskIdentity)
class TaskIdentityAdmin(ReadOnlyAdmin, BigTableAdmin):
    list_display = ["task_id", "task_type"]
