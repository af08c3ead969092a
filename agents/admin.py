"""The cockpit's view of agents."""

from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import connection, transaction
from django.db.models import QuerySet
from django.forms import HiddenInput, IntegerField, ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.html import format_html

from agents.checkpoints import create_checkpoint
from agents.models import (
    Agent,
    AgentState,
    AgentStatus,
    Checkpoint,
    Heartbeat,
    LifecycleEvent,
    StateHistory,
    TypeSettings,
)
from agents.registry import resume_agent, suspend_agent, terminate_agent
from agents.rollback import plan_roll_back, roll_back, show
from agents.state import yield_to_agents
from operators.audit import Actor
from operators.confirm import ReasonForm
from pg.admin import BigTableAdmin, ReadOnlyAdmin, Related, RoomAdmin, TimeWindowFilter
from pg.errors import MisterSmithError

SHOWN_KEYS = 200
SHOWN_TYPES = 200
# from each type to the next one by index (agent_type, status): DISTINCT would read every agent
TYPES = """
WITH RECURSIVE types AS (
  (SELECT agent_type FROM agents.registry ORDER BY agent_type LIMIT 1)
  UNION ALL
  SELECT (SELECT r.agent_type FROM agents.registry r WHERE r.agent_type > t.agent_type ORDER BY r.agent_type LIMIT 1)
  FROM types t WHERE t.agent_type IS NOT NULL
)
SELECT agent_type FROM types WHERE agent_type IS NOT NULL LIMIT %s
"""


class TypeFilter(admin.SimpleListFilter):
    """The types that agents have."""

    title = "type"
    parameter_name = "agent_type"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        with connection.cursor() as cursor:
            cursor.execute(TYPES, [SHOWN_TYPES])
            return [(name, name) for (name,) in cursor.fetchall()]

    def has_output(self) -> bool:
        return True  # else a type that no agent has would filter nothing

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(agent_type=self.value()) if self.value() else queryset


@admin.register(Agent)
class AgentAdmin(BigTableAdmin):
    list_display = ["agent_name", "agent_type", "status", "liveness", "last_heartbeat", "epoch", "created_at"]
    list_filter = ["status", "liveness", TypeFilter]
    search_fields = ["agent_name"]
    readonly_fields = [
        "agent_id",
        "status",
        "liveness",
        "epoch",
        "created_at",
        "updated_at",
        "last_heartbeat",
    ]
    raw_id_fields = ["parent"]
    fieldsets = [
        (None, {"fields": ["agent_name", "agent_type", "status", "liveness", "last_heartbeat", "parent"]}),
        ("Configuration", {"classes": ["tab"], "fields": ["capabilities", "configuration", "metadata"]}),
        ("Identity", {"classes": ["tab"], "fields": ["agent_id", "epoch", "created_at", "updated_at"]}),
    ]
    ordering = ["-agent_id"]
    related = [
        Related("Executions", "tasks.execution", "agent"),
        Related("Tasks assigned", "tasks.task", "assigned_agent"),
        Related("Tasks created", "tasks.task", "created_by_agent"),
        Related("State", "agents.agentstate", "agent"),
        Related("State history", "agents.statehistory", "agent"),
        Related("Checkpoints", "agents.checkpoint", "agent"),
        Related("Lifecycle events", "agents.lifecycleevent", "agent"),
        Related("Messages sent", "messaging.message", "from_agent"),
        Related("Messages received", "messaging.message", "to_agent"),
        Related("Deliveries", "messaging.delivery", "agent"),
        Related("Subscriptions", "messaging.subscription", "agent"),
        Related("Sessions", "agent_sessions.session", "agent"),
        Related("Facts", "knowledge.fact", "source_agent"),
        Related("Children", "agents.agent", "parent"),
        Related("Parent", "agents.agent", "agent_id", "parent_id"),
    ]
    actions = ["suspend", "resume", "terminate", "checkpoint"]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # history points to it: terminate it instead

    @admin.action(description="Suspend", permissions=["change"])
    def suspend(self, request: HttpRequest, queryset: QuerySet[Agent]) -> None:
        self._move_each(request, queryset, suspend_agent)

    @admin.action(description="Resume", permissions=["change"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Agent]) -> None:
        self._move_each(request, queryset, resume_agent)

    @admin.action(description="Terminate", permissions=["change"])
    def terminate(self, request: HttpRequest, queryset: QuerySet[Agent]) -> None:
        self._move_each(request, queryset, terminate_agent)

    @admin.action(description="Save a checkpoint", permissions=["change"])
    def checkpoint(self, request: HttpRequest, queryset: QuerySet[Agent]) -> None:
        for agent in queryset:
            made = create_checkpoint(agent.pk, trigger_event="operator")
            self.log_change(request, agent, f"checkpoint {made.pk}")
        self.message_user(request, "Saved.")

    def _move_each(self, request: HttpRequest, queryset: QuerySet[Agent], move: Any) -> None:
        for agent in queryset:
            try:
                moved = move(agent.pk, actor=request.user.get_username(), reason="admin")
            except MisterSmithError as error:
                self.message_user(request, f"{error}. {error.hint}", messages.ERROR)
            else:
                self.log_change(request, moved, f"status {moved.status}")
                self.message_user(request, f"{moved.agent_name} is {moved.status}.")


class StateForm(ModelForm):
    """An edit of a value that the operator has seen: it is refused where the value moved since the page was opened."""

    seen_version = IntegerField(widget=HiddenInput, required=False)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if not self.instance._state.adding:
            self.fields["seen_version"].initial = self.instance.version

    def clean(self) -> dict[str, Any]:
        if not self.instance._state.adding:
            now = AgentState.objects.select_for_update().filter(pk=self.instance.pk).first()
            if now is None or now.version != self.cleaned_data.get("seen_version"):
                found = "it was deleted" if now is None else f"it is {show(now.state_value, 400)} now"
                raise ValidationError(
                    f"The value changed since you opened this page: {found}. Open the page again."
                )
        return super().clean() or {}


@admin.register(AgentState)
class AgentStateAdmin(BigTableAdmin):
    """Agents write state too: an edit never replaces what the operator has not seen, in either store."""

    form = StateForm
    related = [Related("Agent", "agents.agent", "agent_id", "agent_id")]
    list_display = ["state_key", "agent", "version", "updated_at", "expires_at"]
    list_select_related = ["agent"]
    search_fields = ["state_key"]
    raw_id_fields = ["agent"]
    readonly_fields = [
        "state_id",
        "version",
        "checksum",
        "kv_epoch",
        "kv_revision",
        "created_at",
        "updated_at",
    ]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return [*self.readonly_fields, "agent", "state_key"] if obj else self.readonly_fields

    def save_model(self, request: HttpRequest, obj: AgentState, form: Any, change: bool) -> None:
        with transaction.atomic():
            yield_to_agents()
            super().save_model(request, obj, form, change)

    def delete_model(self, request: HttpRequest, obj: AgentState) -> None:
        with transaction.atomic():
            yield_to_agents()
            super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[AgentState]) -> None:
        with transaction.atomic():
            yield_to_agents()
            super().delete_queryset(request, queryset)


@admin.register(Checkpoint)
class CheckpointAdmin(ReadOnlyAdmin, BigTableAdmin):
    related = [Related("Agent", "agents.agent", "agent_id", "agent_id")]
    list_display = ["checkpoint_id", "agent", "checkpoint_name", "trigger_event", "kv_revision", "created_at"]
    list_select_related = ["agent"]
    search_fields = ["checkpoint_name"]
    ordering = ["-checkpoint_id"]
    actions = ["restore"]

    def get_urls(self) -> list[Any]:
        page = self.admin_site.admin_view(self.show_rollback)
        return [path("<uuid:pk>/rollback/", page, name="agents_checkpoint_rollback"), *super().get_urls()]

    @admin.action(description="Put the agent's state back to this", permissions=["change_agent"])
    def restore(self, request: HttpRequest, queryset: QuerySet[Checkpoint]) -> HttpResponse | None:
        if queryset.count() != 1:
            self.message_user(request, "Choose one checkpoint.", messages.ERROR)
            return None
        return redirect("admin:agents_checkpoint_rollback", queryset.get().pk)

    def show_rollback(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        """Show what would change and ask why; then do it."""
        if not self.has_change_agent_permission(request):
            raise PermissionDenied
        chosen = get_object_or_404(Checkpoint.objects.select_related("agent"), pk=pk)
        form = ReasonForm(request.POST or None)
        if form.is_valid() and self._roll_back(request, chosen, form.cleaned_data["reason"]):
            return redirect("admin:agents_checkpoint_changelist")
        differences = plan_roll_back(chosen.agent_id, chosen)
        context = {
            **self.admin_site.each_context(request),
            "title": f"Roll {chosen.agent.agent_name} back to {chosen}",
            "opts": self.opts,
            "form": form,
            "checkpoint": chosen,
            "number": len(differences),
            "rows": [
                (d.key, d.action, show(d.before, 400), show(d.after, 400)) for d in differences[:SHOWN_KEYS]
            ],
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, "admin/agents/rollback.html", context)

    def _roll_back(self, request: HttpRequest, chosen: Checkpoint, reason: str) -> bool:
        try:
            done = roll_back(
                chosen.agent_id,
                chosen,
                by=Actor.of_request(request),
                reason=reason,
                force="force" in request.POST,
            )
        except MisterSmithError as error:
            self.message_user(request, f"{error}. {error.hint}".strip(), messages.ERROR)
            return False
        for warning in done.warnings:
            self.message_user(request, warning, messages.WARNING)
        undo = reverse("admin:agents_checkpoint_rollback", args=[done.undo.pk])
        said = '{} keys put back, under epoch {}. <a href="{}">Undo it</a>.'
        self.message_user(request, format_html(said, done.changed, done.epoch, undo))
        return True

    def has_change_agent_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("agents.change_agent")


class EventTypeFilter(admin.SimpleListFilter):
    """The types that the database writes: a list of those that occur would read every row."""

    title = "event type"
    parameter_name = "event_type"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("registered", "registered"), *((str(value), str(value)) for value in AgentStatus.values)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(event_type=self.value()) if self.value() else queryset


@admin.register(LifecycleEvent)
class LifecycleEventAdmin(ReadOnlyAdmin, BigTableAdmin):
    related = [Related("Agent", "agents.agent", "agent_id", "agent_id")]
    list_display = ["created_at", "agent", "event_type", "previous_status", "new_status", "triggered_by"]
    list_filter = [TimeWindowFilter, EventTypeFilter]
    rare_filters = ["event_type"]
    list_select_related = ["agent", "triggered_by"]
    ordering = ["-event_id"]


@admin.register(StateHistory)
class StateHistoryAdmin(ReadOnlyAdmin, BigTableAdmin):
    related = [Related("Agent", "agents.agent", "agent_id", "agent_id")]
    list_display = ["changed_at", "agent", "state_key", "version"]
    list_filter = [TimeWindowFilter]
    list_select_related = ["agent"]
    ordering = ["-history_id"]


@admin.register(Heartbeat)
class HeartbeatAdmin(ReadOnlyAdmin, BigTableAdmin):
    list_display = ["agent", "last_heartbeat"]
    list_select_related = ["agent"]


@admin.register(TypeSettings)
class TypeSettingsAdmin(RoomAdmin):
    list_display = ["agent_type", "keep_state_history", "suspect_after_seconds", "lost_after_seconds"]
