"""What restore drills found (guide 14.4, schema `recovery`)."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.expressions import RawSQL
from django.db.models.functions import Now

from pg.uuid7 import uuid7


class TestResult(models.Model):
    """One drill. `recovery_target` None: to the end of the archive; `data_verification_passed` None: not looked."""

    __test__ = False  # pytest takes classes named Test* for tests

    class Kind(models.TextChoices):
        FULL_RESTORE = "full_restore"
        PITR = "pitr", "PITR"
        PARTIAL_RESTORE = "partial_restore"
        CROSS_SYSTEM = "cross_system"

    class Status(models.TextChoices):
        RUNNING = "running"
        PASSED = "passed"
        FAILED = "failed"
        CANCELLED = "cancelled"

    test_id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    test_type = models.CharField(max_length=50, choices=Kind)
    backup_timestamp = models.DateTimeField()
    recovery_target = models.DateTimeField(null=True)
    test_started_at = models.DateTimeField(db_default=Now())
    test_completed_at = models.DateTimeField(null=True)
    test_status = models.CharField(
        max_length=20, choices=Status, default=Status.RUNNING, db_default=Status.RUNNING
    )
    data_verification_passed = models.BooleanField(null=True)
    performance_metrics = models.JSONField(default=dict, db_default=RawSQL("'{}'::jsonb", []))
    error_messages = ArrayField(models.TextField(), null=True)
    notes = models.TextField(null=True)

    class Meta:
        db_table = '"recovery"."test_results"'
        verbose_name = "restore drill"
        ordering = ["-test_id"]

    def __str__(self) -> str:
        return f"{self.test_type} {self.test_started_at:%Y-%m-%d %H:%M}: {self.test_status}"
