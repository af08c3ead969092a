"""What holds for tasks of a type or a queue, and for single ones: limits, pauses, retention, schedules."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from operators.audit import Actor
from pg.admin import BigTableAdmin, ReadOnlyAdmin, Related, RoomAdmin
from pg.errors import MisterSmithError
from tasks.known import DONE_BY, FOR_AGENTS
from tasks.limits import BOUNDS, Bounds, check_limit, remove_limit, set_limit
from tasks.models import (
    Limit,
    Pause,
    QueuePause,
    RecurringSlot,
    Retention,
    TaskPause,
    TaskType,
)
from tasks.pauses import check_until, pause, pause_queue, resume, resume_queue
from tasks.retention import STATUSES, keep


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
