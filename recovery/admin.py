from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.urls import path
from django.utils.timesince import timesince

from operators.audit import Actor
from operators.confirm import reasoned_action
from pg.admin import ReadOnlyAdmin
from recovery.cross_checks import kinds_of_drills
from recovery.models import ArchiveState, Backup, RestorePoint, TestResult, Timeline, Upload, WalSegment
from recovery.orders import order_fetch, order_proof, pin
from recovery.pages import order_page, plan_page, store_page
from recovery.partial_pages import partial_page, staged_page
from recovery.picture import overview
from recovery.rows import lies
from recovery.wal import lsn_text


@admin.register(Backup)
class BackupAdmin(ReadOnlyAdmin):
    list_display = (
        "started_at",
        "kind",
        "status",
        "age",
        "size",
        "verified_at",
        "lies",
        "is_pinned",
        "database_name",
        "error",
    )
    list_filter = ("status", "kind", "is_pinned")
    search_fields = ("location", "error")
    actions = ("verify", "pin", "unpin", "fetch")
    list_before_template = "recovery/overview.html"

    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        own = [
            path("order/", wrap(order_page), name="recovery_backup_order"),
            path("plan/", wrap(plan_page), name="recovery_backup_plan"),
            path("partial/", wrap(partial_page), name="recovery_backup_partial"),
            path("partial/<str:name>/", wrap(staged_page), name="recovery_backup_staged"),
        ]
        return own + super().get_urls()

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        may_order = request.user.has_perm("recovery.make_backup")
        return super().changelist_view(
            request,
            {
                **(extra_context or {}),
                "overview": overview(),
                "may_order": may_order,
                "may_restore": request.user.has_perm("recovery.restore_rows"),
            },
        )

    @admin.display(ordering="started_at")
    def age(self, backup: Backup) -> str:
        return timesince(backup.started_at)

    @admin.display(ordering="size_bytes")
    def size(self, backup: Backup) -> str:
        return filesizeformat(backup.size_bytes) if backup.size_bytes is not None else "-"

    @admin.display(description="lies", ordering="stored_at")
    def lies(self, backup: Backup) -> str:
        return lies(backup) or "-"

    def has_verify_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("recovery.verify_backup")

    def has_pin_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("recovery.pin_backup")

    @reasoned_action("Verify: restore into a scratch database or server and compare", permissions=["verify"])
    def verify(self, request: HttpRequest, rows: QuerySet[Any], by: Actor, reason: str) -> str:
        """Let a worker verify the finished ones; what it finds is in the list and under restore drills."""
        return f"Sent for verification: {order_proof(rows, by, reason)}."

    @reasoned_action("Pin: never prune the selected backups", permissions=["pin"])
    def pin(self, request: HttpRequest, rows: QuerySet[Any], by: Actor, reason: str) -> str:
        return f"Pinned: {len(pin(rows, by, reason))}."

    @reasoned_action("Let the selected backups be pruned again", permissions=["pin"])
    def unpin(self, request: HttpRequest, rows: QuerySet[Any], by: Actor, reason: str) -> str:
        return f"No longer pinned: {len(pin(rows, by, reason, off=True))}."

    def has_fetch_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("recovery.fetch_backup")

    @reasoned_action(
        "Fetch: bring the selected backups back from the store, with all that they need",
        permissions=["fetch"],
    )
    def fetch(self, request: HttpRequest, rows: QuerySet[Any], by: Actor, reason: str) -> str:
        """Let a worker fetch those that the store has, with what they build on and their WAL."""
        return f"Sent to be fetched: {order_fetch(rows, by, reason)}."


@admin.register(TestResult)
class TestResultAdmin(ReadOnlyAdmin):
    list_display = (
        "test_started_at",
        "test_type",
        "test_status",
        "data_verification_passed",
        "took",
        "rows",
        "backup_timestamp",
        "recovery_target",
        "test_completed_at",
    )
    list_filter = ("test_type", "test_status", "data_verification_passed")
    search_fields = ("notes",)
    list_before_template = "recovery/drills.html"

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        return super().changelist_view(request, {**(extra_context or {}), "kinds": kinds_of_drills()})

    @admin.display(description="RTO")
    def took(self, row: TestResult) -> str:
        seconds = row.performance_metrics.get("rto_seconds")
        return "-" if seconds is None else f"{seconds:.1f} s"

    @admin.display(description="rows")
    def rows(self, row: TestResult) -> str:
        number = row.performance_metrics.get("rows")
        return "-" if number is None else f"{number:,}"


@admin.register(WalSegment)
class WalSegmentAdmin(ReadOnlyAdmin):
    list_display = ("name", "size", "archived_at", "checked_at", "last_commit_at", "problem")
    list_filter = (("problem", admin.EmptyFieldListFilter), "timeline")
    search_fields = ("name",)

    @admin.display(ordering="stored_bytes")
    def size(self, segment: WalSegment) -> str:
        return filesizeformat(segment.stored_bytes)


@admin.register(RestorePoint)
class RestorePointAdmin(ReadOnlyAdmin):
    list_display = ("name", "timeline", "position", "segment")
    search_fields = ("name",)

    @admin.display(description="position", ordering="lsn")
    def position(self, point: RestorePoint) -> str:
        return lsn_text(point.lsn)


@admin.register(Timeline)
class TimelineAdmin(ReadOnlyAdmin):
    list_display = ("timeline", "parent", "left_at")

    @admin.display(description="left its parent at", ordering="switch_lsn")
    def left_at(self, row: Timeline) -> str:
        return lsn_text(row.switch_lsn)


@admin.register(ArchiveState)
class ArchiveStateAdmin(ReadOnlyAdmin):
    list_display = ("system_identifier", "timeline", "archived_to", "last_commit_at", "checked_at", "trouble")

    @admin.display(description="archived to", ordering="archived_lsn")
    def archived_to(self, state: ArchiveState) -> str:
        return lsn_text(state.archived_lsn)

    @admin.display(description="problems")
    def trouble(self, state: ArchiveState) -> str:
        return "; ".join(state.problems) or "none"


@admin.register(Upload)
class UploadAdmin(ReadOnlyAdmin):
    """The queue of the store, and what is there."""

    list_display = ("key", "size", "queued_at", "uploaded_at", "encrypted", "attempts", "doomed_at", "error")
    list_filter = (
        ("uploaded_at", admin.EmptyFieldListFilter),
        ("error", admin.EmptyFieldListFilter),
        ("doomed_at", admin.EmptyFieldListFilter),
        "key_id",
    )
    search_fields = ("key",)
    list_before_template = "recovery/store.html"

    def get_urls(self) -> list[Any]:
        page = path("order/", self.admin_site.admin_view(store_page), name="recovery_upload_order")
        return [page, *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        may_repair = request.user.has_perm("recovery.repair_store")
        return super().changelist_view(request, {**(extra_context or {}), "may_repair": may_repair})

    @admin.display(ordering="stored_bytes")
    def size(self, row: Upload) -> str:
        return filesizeformat(row.size_bytes if row.stored_bytes is None else row.stored_bytes)

    @admin.display(description="encrypted with", ordering="key_id")
    def encrypted(self, row: Upload) -> str:
        return row.key_id or "-"
