"""What is kept of tasks beside the queue: attempts, edges, keys, resources."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html

from pg.admin import BigTableAdmin, ReadOnlyAdmin, Related, TimeWindowFilter
from tasks.filters import AttemptStatusFilter
from tasks.models import (
    Dependency,
    Execution,
    ResourceHolder,
    ResourceWaiter,
    TaskIdentity,
    TaskStatus,
    UniqueKey,
)


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
        """Attempts that run are found by their tasks, however old they are."""
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
