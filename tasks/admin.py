"""The cockpit's view of the queue and its history."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html

from operators.audit import Actor
from pg.admin import BigTableAdmin, ReadOnlyAdmin, Related, RoomAdmin, TimeWindowFilter
from pg.errors import MisterSmithError
from tasks.claim import cancel
from tasks.control import retry
from tasks.limits import BOUNDS, Bounds, check_limit, remove_limit, set_limit
from tasks.models import (
    Dependency,
    Execution,
    Limit,
    Pause,
    QueuePause,
    ResourceHolder,
    ResourceWaiter,
    Task,
    TaskIdentity,
    TaskPriority,
    TaskStatus,
    TaskType,
    UniqueKey,
)
from tasks.pauses import check_until, pause, pause_queue, resume, resume_queue


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


@admin.register(Task)
class TaskAdmin(BigTableAdmin):
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
    ]
    fieldsets = [
        (None, {"fields": ["task_type", "task_name", "status", "status_reason", "priority", "progress", "payload"]}),
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
    actions = ["cancel_selected", "retry_selected"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        fixed = ["task_type", "payload", "unique_key", "parent"]
        return [*self.readonly_fields, *fixed] if obj else self.readonly_fields

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # cancel it instead; retention removes finished ones

    @admin.display(description="attempts")
    def attempts(self, task: Task) -> str:
        url = reverse("admin:tasks_execution_changelist")
        return format_html('<a href="{}?task_id__exact={}">attempts</a>', url, task.pk)

    @admin.action(description="Cancel", permissions=["change"])
    def cancel_selected(self, request: HttpRequest, queryset: QuerySet[Task]) -> None:
        self._steer(request, queryset, cancel, "cancelled")

    @admin.action(description="Retry failed and cancelled ones", permissions=["change"])
    def retry_selected(self, request: HttpRequest, queryset: QuerySet[Task]) -> None:
        self._steer(request, queryset, retry, "retried")

    def _steer(self, request: HttpRequest, queryset: QuerySet[Task], change: Any, done: str) -> None:
        chosen = {task.pk: task for task in queryset}
        try:
            moved = change(chosen, f"{done} by {request.user.get_username()}")
        except MisterSmithError as error:
            self.message_user(request, f"{error}. {error.hint}", messages.ERROR)
            return
        for task_id in moved:
            self.log_change(request, chosen[task_id], done)
        left = len(chosen) - len(moved)
        text = f"{len(moved)} {done}" + (f"; {left} were not in a state for that" if left else "")
        self.message_user(request, text, messages.WARNING if left else messages.SUCCESS)


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

    def lookup_allowed(self, lookup: str, value: Any, request: Any = None) -> bool:
        return lookup == "task_id__exact" or super().lookup_allowed(lookup, value, request)

    @admin.display(description="log (last lines)")
    def log(self, execution: Execution) -> str:
        return format_html(
            '<pre style="overflow-x: auto">{}</pre>', execution.log_lines or "nothing was logged"
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
    list_display = ["task_type", "queue", "partition_name", "registered_at"]
    search_fields = ["task_type"]


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
