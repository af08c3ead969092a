"""The cockpit's view of the bridge: what waits, what NATS refuses, what could not be applied, whose write lost."""

import json
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import connection
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import path
from django.utils.html import format_html

from bridge import setup
from bridge.fence import has_leader
from bridge.figures import read_bridges, rows_of
from bridge.held import apply_as_declared, rows_of_server
from bridge.hydration import hydrate_agent
from bridge.models import (
    Conflict,
    ConflictRule,
    DeadLetter,
    Hold,
    Hydration,
    OutboxRow,
    Process,
    QuarantinedRow,
    Source,
)
from bridge.outbox import read_depth
from bridge.redrive import drop_letters, drop_rows, redrive_letters, redrive_rows
from bridge.session import open_session
from operators.audit import Actor, record
from operators.confirm import ReasonForm, reasoned_action
from pg.admin import BigTableAdmin, ReadOnlyAdmin, Related, RoomAdmin
from pg.errors import MisterSmithError

SHOWN_BYTES = 10_000
LOOK_SECONDS = 5


@admin.register(OutboxRow)
class OutboxAdmin(ReadOnlyAdmin, BigTableAdmin):
    list_display = ["outbox_id", "target", "key", "op", "created_at"]
    list_filter = ["op"]
    search_fields = ["=key"]
    search_help_text = "A whole key."


@admin.register(QuarantinedRow)
class QuarantineAdmin(ReadOnlyAdmin, BigTableAdmin):
    list_display = ["outbox_id", "target", "key", "op", "attempts", "error", "quarantined_at"]
    search_fields = ["=key"]
    search_help_text = "A whole key."
    actions = ["send_again", "drop"]

    def has_redrive_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("bridge.change_quarantinedrow")

    @reasoned_action("Send again", permissions=["redrive"])
    def send_again(self, request: HttpRequest, rows: QuerySet[QuarantinedRow], by: Actor, reason: str) -> str:
        done = redrive_rows([row.pk for row in rows], by=by, reason=reason)
        return f"{done.done} rows are back in the outbox."

    @reasoned_action("Drop for good, and let later rows of the key go on", permissions=["redrive"])
    def drop(self, request: HttpRequest, rows: QuerySet[QuarantinedRow], by: Actor, reason: str) -> str:
        return f"{drop_rows([row.pk for row in rows], by=by, reason=reason)} rows dropped."


@admin.register(DeadLetter)
class DeadLetterAdmin(ReadOnlyAdmin, BigTableAdmin):
    list_display = ["dead_letter_id", "consumer", "subject", "attempts", "error", "last_failed_at"]
    list_filter = ["consumer"]
    search_fields = ["=subject"]
    search_help_text = "A whole subject."
    exclude = ["payload"]
    readonly_fields = ["shown_payload"]
    actions = ["apply_again", "drop"]

    def has_redrive_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("bridge.change_deadletter")

    @admin.display(description="payload")
    def shown_payload(self, row: DeadLetter) -> str:
        data = bytes(row.payload)
        text = data[:SHOWN_BYTES].decode(errors="backslashreplace")
        return text if len(data) <= SHOWN_BYTES else f"{text} ... ({len(data)} bytes)"

    @reasoned_action("Apply again", permissions=["redrive"])
    def apply_again(self, request: HttpRequest, rows: QuerySet[DeadLetter], by: Actor, reason: str) -> str:
        done = redrive_letters([row.pk for row in rows], by=by, reason=reason)
        return f"{done.done} applied, {done.left} failed again."

    @reasoned_action("Drop for good", permissions=["redrive"])
    def drop(self, request: HttpRequest, rows: QuerySet[DeadLetter], by: Actor, reason: str) -> str:
        return f"{drop_letters([row.pk for row in rows], by=by, reason=reason)} dropped."


@admin.register(Source)
class SourceAdmin(ReadOnlyAdmin):
    """How far each bucket is flushed; `topology/` shows what the server holds, and brings it to what is declared."""

    list_display = ["bucket", "kv_epoch", "flushed_sequence", "updated_at"]
    list_before_template = "bridge/links.html"

    def get_urls(self) -> list[Any]:
        page = path("topology/", self.admin_site.admin_view(self.show_topology), name="bridge_topology")
        return [page, *super().get_urls()]

    def has_setup_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("bridge.change_source")

    def show_topology(self, request: HttpRequest) -> HttpResponse:
        """Show what differs from the declaration; with a reason, do what can be done in place."""
        may_apply = self.has_setup_permission(request)
        if not self.has_view_permission(request) or (request.method == "POST" and not may_apply):
            raise PermissionDenied
        form = ReasonForm(request.POST or None)
        if form.is_valid():
            self._set_up(request, form.cleaned_data["reason"])
            return redirect("admin:bridge_topology")
        context = {
            **self.admin_site.each_context(request),
            "title": "Buckets and streams",
            "opts": self.opts,
            "form": form,
            "may_apply": may_apply,
            **read_topology(),
        }
        return TemplateResponse(request, "bridge/topology.html", context)

    def _set_up(self, request: HttpRequest, reason: str) -> None:
        """Audited first: a step that JetStream has done stays done, whatever comes after it."""
        try:
            found = setup.read_found(LOOK_SECONDS)
            names = [step.object for step in setup.make_plan(found) if step.action != "refuse"]
            record(Actor.of_request(request), "bridge.setup", names, reason=reason)
            done = [step for step in apply_as_declared(found) if step.action != "refuse"]
        except MisterSmithError as error:
            self.message_user(request, f"{error}. {error.hint}".strip(), messages.ERROR)
        else:
            self.message_user(request, f"{len(done)} steps done.")


def read_topology() -> dict[str, Any]:
    """Return rows and steps for the page, or why there are none."""
    try:
        found = setup.read_found(LOOK_SECONDS)
    except MisterSmithError as error:
        return {"problem": f"{error}. {error.hint}"}
    steps = setup.make_plan(found)
    return {"rows": rows_of_server(found, steps), "steps": steps}


@admin.register(Process)
class ProcessAdmin(ReadOnlyAdmin):
    """The bridges that run; `live/` shows their figures and renews itself."""

    list_display = ["host", "pid", "started_at", "seen_at"]
    list_before_template = "bridge/links.html"
    ordering = ["-seen_at"]

    def get_urls(self) -> list[Any]:
        live = path("live/", self.admin_site.admin_view(self.show_live), name="bridge_live")
        return [live, *super().get_urls()]

    def show_live(self, request: HttpRequest) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        rows = list(rows_of(read_bridges(connection)))
        context = {
            **self.admin_site.each_context(request),
            "title": "Bridge, live",
            "opts": self.opts,
            "depth": read_depth(connection),
            "leads": has_leader(connection),
            "rows": rows,
            "heads": ["bridge", "part", "pending", "p50 ms", "p95 ms", "p99 ms", "did"],
        }
        return TemplateResponse(request, "bridge/live.html", context)


@admin.register(Hydration)
class HydrationAdmin(ReadOnlyAdmin, BigTableAdmin):
    list_display = ["agent", "phase", "keys", "stored", "moved_at", "hydrated_at", "error"]
    list_filter = ["phase"]
    list_select_related = ["agent"]
    related = [Related("Agent", "agents.agent", "agent_id", "agent_id")]
    actions = ["hydrate"]

    def has_hydrate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("agents.change_agent")

    @reasoned_action("Load what KV lacks of the agent's state", permissions=["hydrate"])
    def hydrate(self, request: HttpRequest, rows: QuerySet[Hydration], by: Actor, reason: str) -> str:
        with open_session() as db:
            stored = sum(hydrate_agent(db, row.agent_id).filled.stored for row in rows)
        record(by, "bridge.hydrate", [row.agent_id for row in rows], reason=reason)
        return f"{stored} keys loaded."


@admin.register(ConflictRule)
class ConflictRuleAdmin(RoomAdmin):
    list_display = ["bucket", "key_prefix", "strategy"]
    list_filter = ["bucket", "strategy"]
    ordering = ["bucket", "key_prefix"]


@admin.register(Conflict)
class ConflictAdmin(ReadOnlyAdmin, BigTableAdmin):
    list_display = ["conflict_id", "target", "key", "strategy", "winner", "kv_revision", "noticed_at"]
    list_filter = ["strategy", "winner"]
    search_fields = ["=key"]
    search_help_text = "A whole key."
    exclude = ["kv_value", "pg_value"]
    readonly_fields = ["both_values"]

    @admin.display(description="the two values")
    def both_values(self, row: Conflict) -> str:
        cells = (
            ("PostgreSQL", row.winner == Conflict.Winner.POSTGRESQL, shown_json(row.pg_value)),
            ("The agent, in KV", row.winner == Conflict.Winner.AGENT, shown_text(row.kv_value)),
        )
        return format_html(
            '<table class="w-full"><tr>{}{}</tr><tr>{}{}</tr></table>',
            *(
                format_html('<th class="text-left w-1/2">{}{}</th>', who, " (won)" if won else " (lost)")
                for who, won, _ in cells
            ),
            *(
                format_html('<td class="align-top"><pre class="whitespace-pre-wrap">{}</pre></td>', text)
                for _, _, text in cells
            ),
        )


def shown_json(value: Any) -> str:
    """Return what PostgreSQL had, with sorted keys so that the two can be compared line by line."""
    return "(deleted)" if value is None else json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)


def shown_text(text: str | None) -> str:
    if text is None:
        return "(deleted)"
    try:
        return shown_json(json.loads(text)) if text != "null" else "null"
    except ValueError:
        return text


@admin.register(Hold)
class HoldAdmin(ReadOnlyAdmin):
    list_display = ["reason", "since", "details"]
