"""Who did what and why, and actions on many rows (schema `operators`)."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Now


class Via(models.TextChoices):
    """The door through which somebody acted."""

    ADMIN = "admin"
    COMMAND = "command"
    JOB = "job"
    API = "api"


class AuditEntry(models.Model):
    """One act of a person or a job; rows are only ever added (see `operators.audit`)."""

    entry_id = models.BigAutoField(primary_key=True)
    recorded_at = models.DateTimeField(db_default=Now(), editable=False)
    actor = models.TextField()
    via = models.TextField(choices=Via)
    address = models.GenericIPAddressField(null=True)
    action = models.TextField()
    objects_touched = ArrayField(models.TextField(), db_column="objects", default=list)
    object_count = models.BigIntegerField(default=1)
    reason = models.TextField(default="")
    details = models.JSONField(default=dict)
    seal_number = models.BigIntegerField(null=True, editable=False, unique=True)
    seal = models.BinaryField(null=True, editable=False)

    class Meta:
        db_table = '"operators"."audit"'
        verbose_name = "audit entry"
        verbose_name_plural = "audit entries"

    def __str__(self) -> str:
        return f"{self.action} by {self.actor}"


class BulkStatus(models.TextChoices):
    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN = (BulkStatus.QUEUED, BulkStatus.RUNNING)


class BulkJob(models.Model):
    """One action on many rows, done in batches (see `operators.bulk`)."""

    job_id = models.BigAutoField(primary_key=True)
    action = models.TextField()
    parameters = models.JSONField(default=dict)
    reason = models.TextField(default="")
    requested_by = models.TextField()
    via = models.TextField(choices=Via)
    status = models.TextField(choices=BulkStatus, default=BulkStatus.QUEUED)
    expected = models.BigIntegerField(default=0, help_text="how many rows matched when it was requested")
    done = models.BigIntegerField(default=0)
    failed = models.BigIntegerField(default=0)
    position = models.JSONField(null=True, help_text="where the next batch begins")
    error = models.TextField(null=True)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        db_table = '"operators"."bulk_jobs"'
        verbose_name = "bulk job"

    def __str__(self) -> str:
        return f"{self.action}, {self.status}"
