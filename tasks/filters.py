"""Filters of the lists of tasks and of their attempts."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from pg.queries import Queries
from tasks.models import TaskPriority, TaskStatus, TaskType

QUERIES = Queries("tasks")
MAX_RUNNING = 5_000


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
    """An attempt that runs is of a task that runs: found by those, where its status would be looked for in all of
    history. One query more; MAX_RUNNING of them at most, the newest leases."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        rows = super().queryset(request, queryset)
        if self.value() != TaskStatus.RUNNING:
            return rows
        return rows.filter(
            pk__in=[row["execution_id"] for row in QUERIES.run("running_executions", limit=MAX_RUNNING)]
        )


class PriorityFilter(StatusFilter):
    title = "priority"
    parameter_name = "priority"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(value), str(label)) for value, label in TaskPriority.choices]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(priority=self.value()) if self.value() in TaskPriority.values else queryset
