"""The catalogue of backups, and what restore drills found (guide 14.4, schema `recovery`)."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.expressions import RawSQL
from django.db.models.functions import Now
from django.utils import timezone

from pg.uuid7 import uuid7


class Backup(models.Model):
    """One backup. The same is kept beside the data (see recovery.catalogue), for the day when this table is gone.

    `completed_at` None: running or failed. `verified_at`: when a restore of it was last found equal, None: never.
    `location` is below the backup folder.
    """

    class Kind(models.TextChoices):
        LOGICAL = "logical"
        BASE = "base"
        INCREMENTAL = "incremental"
        CROSS_SYSTEM = "cross_system"

    class Status(models.TextChoices):
        RUNNING = "running"
        COMPLETE = "complete"
        VERIFIED = "verified"
        DAMAGED = "damaged"
        FAILED = "failed"

    backup_id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    kind = models.CharField(max_length=20, choices=Kind, default=Kind.LOGICAL, db_default=Kind.LOGICAL)
    status = models.CharField(
        max_length=20, choices=Status, default=Status.RUNNING, db_default=Status.RUNNING
    )
    location = models.TextField()
    database_name = models.TextField()
    server_version = models.TextField()
    tool_version = models.TextField()
    started_at = models.DateTimeField(default=timezone.now, db_default=Now())
    completed_at = models.DateTimeField(null=True)
    verified_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField(default=timezone.now, db_default=Now())
    database_bytes = models.BigIntegerField()
    size_bytes = models.BigIntegerField(null=True)
    manifest_sha256 = models.TextField(null=True)
    row_counts = models.JSONField(default=dict, db_default=RawSQL("'{}'::jsonb", []))
    is_pinned = models.BooleanField(default=False, db_default=False)
    error = models.TextField(null=True)

    class Meta:
        db_table = '"recovery"."backups"'
        ordering = ["-backup_id"]
        permissions = [("verify_backup", "Can verify backups by restoring them")]

    def __str__(self) -> str:
        return f"{self.kind} backup {self.started_at:%Y-%m-%d %H:%M}: {self.status}"


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
