"""Pages that show the server as it is now; from sessions and lock waits a statement is cancelled, a session ended."""

from typing import Any

from django.contrib import admin, messages
from django.db import OperationalError, connection, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.defaultfilters import filesizeformat
from django.template.response import TemplateResponse
from django.utils import timezone
from psycopg.errors import LockNotAvailable
from unfold.decorators import display

from monitoring.models import (
    Activity,
    Index,
    LockWait,
    ProcessPool,
    Replica,
    ReplicationSlot,
    Snapshot,
    Statement,
    Table,
)
from monitoring.pools import arithmetic, read_pools, read_servers
from monitoring.sessions import cancel_statements, terminate_sessions
from monitoring.trends import make_charts
from operators.audit import Actor
from operators.confirm import reasoned_action
from pg.admin import BigTableAdmin, ReadOnlyAdmin, TimeWindowFilter
from pg.uuid7 import uuid7_time

EM_SPACE, ARROW = "\u2003", "↳\u00a0"  # neither is a place for a line to break
LOCK_TIMEOUT_MS = 2_000


class NowAdmin(ReadOnlyAdmin):
    """A view of what is now: a few hundred rows at most.

    Asking a table for its size takes a lock on it, if the weakest: where somebody holds the strongest one, the page
    leads to who that is instead of waiting with all the others.
    """

    list_per_page = 200
    show_full_result_count = False

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = %s", [LOCK_TIMEOUT_MS])
                response = super().changelist_view(request, extra_context)
                return response.render() if isinstance(response, TemplateResponse) else response
        except OperationalError as error:
            if not isinstance(error.__cause__, LockNotAvailable):
                raise
            self.message_user(request, "Somebody holds a lock on a table: here is who.", messages.WARNING)
            return redirect("admin:monitoring_lockwait_changelist")


def seconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f} s"


class SessionActions(NowAdmin):
    """Cancel and terminate, for rows with a `pid`."""

    actions = ("cancel", "terminate")

    def has_signal_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("monitoring.change_activity")

    @reasoned_action("Cancel the statements of the selected sessions", permissions=["signal"])
    def cancel(self, request: HttpRequest, rows: QuerySet[Any], by: Actor, reason: str) -> str:
        pids = cancel_statements({row.pid for row in rows}, by=by, reason=reason)
        return f"{len(pids)} statements cancelled."

    @reasoned_action("End the selected sessions", permissions=["signal"])
    def terminate(self, request: HttpRequest, rows: QuerySet[Any], by: Actor, reason: str) -> str:
        pids = terminate_sessions({row.pid for row in rows}, by=by, reason=reason)
        return f"{len(pids)} sessions ended; what they had not committed is rolled back."

    @display(description="transaction open for", ordering="transaction_seconds")
    def transaction(self, row: Any) -> str:
        return seconds(row.transaction_seconds)


@admin.register(ProcessPool)
class ProcessPoolAdmin(NowAdmin):
    """Pools of the processes that live, wherever they run: each says so itself every few seconds."""

    list_display = (
        "process",
        "host",
        "pid",
        "pool",
        "connections",
        "of",
        "idle",
        "waiting",
        "requests",
        "mean_wait",
        "refused",
        "lost",
        "seen_at",
    )
    list_filter = ("process", "pool")
    ordering = ("process", "host", "pid", "pool")

    @display(description="of", ordering="maximum")
    def of(self, row: ProcessPool) -> str:
        return "no pool" if row.maximum is None else str(row.maximum)

    @display(description="mean wait")
    def mean_wait(self, row: ProcessPool) -> str:
        return f"{1000 * row.waited_seconds / row.requests:,.1f} ms" if row.requests else ""


@admin.register(Activity)
class ActivityAdmin(SessionActions):
    list_display = (
        "pid",
        "application_name",
        "username",
        "state",
        "for_seconds",
        "transaction",
        "waits_for",
        "blockers",
        "statement",
    )
    list_filter = ("state",)
    search_fields = ("application_name", "statement")
    ordering = ("backend_start",)

    @display(description="for", ordering="state_seconds")
    def for_seconds(self, row: Activity) -> str:
        return seconds(row.state_seconds)


@admin.register(LockWait)
class LockWaitAdmin(SessionActions):
    list_display = (
        "session",
        "application_name",
        "state",
        "waiting",
        "wants",
        "object",
        "blocks",
        "transaction",
        "statement",
    )
    ordering = ("position",)
    sortable_by = ()

    @display(description="process")
    def session(self, row: LockWait) -> str:
        return f"{EM_SPACE * row.depth}{ARROW if row.depth else ''}{row.pid}"

    @display(description="waits for")
    def waiting(self, row: LockWait) -> str:
        return seconds(row.waiting_seconds)


@admin.register(Table)
class TableAdmin(NowAdmin):
    list_display = (
        "table_name",
        "partitions",
        "size",
        "index_size",
        "row_estimate",
        "dead",
        "bloat",
        "hot",
        "scans",
        "xid_age",
        "vacuumed_at",
        "analyzed_at",
    )
    search_fields = ("table_name",)
    ordering = ("-total_bytes",)

    @display(description="size", ordering="total_bytes")
    def size(self, table: Table) -> str:
        return filesizeformat(table.total_bytes)

    @display(description="of it indexes", ordering="index_bytes")
    def index_size(self, table: Table) -> str:
        return filesizeformat(table.index_bytes)

    @display(description="dead rows", ordering="dead_ratio")
    def dead(self, table: Table) -> str:
        return f"{table.dead_rows:,} ({table.dead_ratio:.0%})"

    @display(description="bloat", ordering="bloat_bytes")
    def bloat(self, table: Table) -> str:
        return filesizeformat(table.bloat_bytes)

    @display(description="HOT updates", ordering="hot_ratio")
    def hot(self, table: Table) -> str:
        return "" if table.hot_ratio is None else f"{table.hot_ratio:.0%}"

    @display(description="sequential / index scans", ordering="sequential_scans")
    def scans(self, table: Table) -> str:
        return f"{table.sequential_scans:,} / {table.index_scans:,}"


@admin.register(Index)
class IndexAdmin(NowAdmin):
    list_display = (
        "index_name",
        "schema_name",
        "table_name",
        "index_size",
        "index_scans",
        "usage_ratio",
        "recommendation",
    )
    list_filter = ("schema_name",)
    search_fields = ("index_name", "table_name", "recommendation")
    ordering = ("index_scans",)


@admin.register(Statement)
class StatementAdmin(NowAdmin):
    list_display = ("statement", "calls", "total", "mean", "maximum", "rows_per_call", "hits", "wal")
    search_fields = ("statement",)
    ordering = ("-total_ms",)

    @display(description="total", ordering="total_ms")
    def total(self, row: Statement) -> str:
        return seconds(row.total_ms / 1000)

    @display(description="mean", ordering="mean_ms")
    def mean(self, row: Statement) -> str:
        return f"{row.mean_ms:,.2f} ms"

    @display(description="longest", ordering="max_ms")
    def maximum(self, row: Statement) -> str:
        return f"{row.max_ms:,.1f} ms"

    @display(description="from memory", ordering="cache_hit_ratio")
    def hits(self, row: Statement) -> str:
        return "" if row.cache_hit_ratio is None else f"{row.cache_hit_ratio:.1%}"

    @display(description="WAL", ordering="wal_bytes")
    def wal(self, row: Statement) -> str:
        return filesizeformat(row.wal_bytes)


@admin.register(Replica)
class ReplicaAdmin(NowAdmin):
    list_display = ("application_name", "client_addr", "state", "sync_state", "lag", "lag_seconds")
    ordering = ("application_name",)

    @display(description="behind", ordering="lag_bytes")
    def lag(self, replica: Replica) -> str:
        return "unknown" if replica.lag_bytes is None else filesizeformat(replica.lag_bytes)


@admin.register(Snapshot)
class SnapshotAdmin(ReadOnlyAdmin, BigTableAdmin):
    """Trends drawn above the list of what they are made of, and the pools as they are now."""

    list_display = ("snapshot_id", "moment", "kind")
    list_filter = (TimeWindowFilter, "kind")
    list_before_template = "monitoring/trends.html"

    @display(description="at")
    def moment(self, snapshot: Snapshot) -> str:
        return f"{uuid7_time(snapshot.snapshot_id):%Y-%m-%d %H:%M:%S}"

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        servers, sessions = read_servers()
        shown = {
            "charts": make_charts(timezone.now()),
            "pools": read_pools(),
            "servers": servers,
            "sessions": sessions,
        }
        shown["arithmetic"] = "" if servers[0]["problem"] else arithmetic()[0]
        return super().changelist_view(request, {**(extra_context or {}), **shown})


@admin.register(ReplicationSlot)
class ReplicationSlotAdmin(NowAdmin):
    list_display = ("slot_name", "slot_type", "is_active", "wal_status", "retained")
    ordering = ("slot_name",)

    @display(description="keeps", ordering="retained_bytes")
    def retained(self, slot: ReplicationSlot) -> str:
        return filesizeformat(slot.retained_bytes)
