from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.utils.timesince import timesince
from kombu.exceptions import OperationalError

from pg.admin import ReadOnlyAdmin
from recovery.jobs import verify_job
from recovery.models import Backup, TestResult


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
