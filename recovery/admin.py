from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.utils.timesince import timesince
from kombu.exceptions import OperationalError

from pg.admin import ReadOnlyAdmin
from recovery.jobs import verify_job
from recovery.models import ArchiveState, Backup, RestorePoint, TestResult, Timeline, WalSegment
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
        "is_pinned",
        "database_name",
        "error",
    )
    list_filter = ("status", "kind", "is_pinned")
    search_fields = ("location", "error")
    actions = ("verify",)

    @admin.display(ordering="started_at")
    def age(self, backup: Backup) -> str:
        return timesince(backup.started_at)

    @admin.display(ordering="size_bytes")
    def size(self, backup: Backup) -> str:
        return filesizeformat(backup.size_bytes) if backup.size_bytes is not None else "-"

    def has_verify_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("recovery.verify_backup")

    @admin.action(permissions=["verify"], description="Verify: restore into a scratch database and compare")
    def verify(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Let a worker verify the finished ones; what it finds is in the list and under restore drills."""
        finished = list(queryset.exclude(completed_at=None))
        try:
            for backup in finished:
                verify_job.delay(str(backup.pk))
        except OperationalError as error:
            self.message_user(request, f"The broker does not answer: {error}", messages.ERROR)
            return
        self.message_user(request, f"Sent for verification: {len(finished)}.")


@admin.register(TestResult)
class TestResultAdmin(ReadOnlyAdmin):
    list_display = (
        "test_started_at",
        "test_type",
        "test_status",
        "data_verification_passed",
        "backup_timestamp",
        "recovery_target",
        "test_completed_at",
    )
    list_filter = ("test_type", "test_status", "data_verification_passed")
    search_fields = ("notes",)


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
