from django.contrib import admin

from pg.admin import ReadOnlyAdmin
from recovery.models import TestResult


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
