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
    `location` is below the backup folder. Base and incremental ones cover the WAL positions `start_lsn` to `end_lsn`
    of `timeline`; `parent_id` is what an incremental one builds on; `has_wal`: it brings the WAL that it needs itself.
    `stored_at`: when all of it was in the store, None: it lies in the backup folder alone.
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
    parent_id = models.UUIDField(null=True)
    system_identifier = models.TextField(null=True)
    timeline = models.IntegerField(null=True)
    start_lsn = models.BigIntegerField(null=True)
    end_lsn = models.BigIntegerField(null=True)
    has_wal = models.BooleanField(default=False, db_default=False)
    stored_at = models.DateTimeField(null=True)

    class Meta:
        db_table = '"recovery"."backups"'
        ordering = ["-backup_id"]
        permissions = [
            ("verify_backup", "Can verify backups by restoring them"),
            ("make_backup", "Can make backups"),
            ("pin_backup", "Can keep backups from being pruned"),
            ("restore_rows", "Can bring rows back from backups"),
            ("fetch_backup", "Can bring backups back from the store"),
            ("repair_store", "Can repair the store and encrypt it anew"),
        ]

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


class WalSegment(models.Model):
    """One segment of the WAL archive, as the continuity job last saw it.

    `number` is its position divided by the segment size. `stored_bytes` 0: it is missing. Commit times are those of the
    transactions that ended in it, None where none did.
    """

    name = models.CharField(primary_key=True, max_length=24)
    timeline = models.IntegerField()
    number = models.BigIntegerField()
    segment_bytes = models.BigIntegerField()
    stored_bytes = models.BigIntegerField()
    archived_at = models.DateTimeField()
    checked_at = models.DateTimeField(default=timezone.now, db_default=Now())
    first_commit_at = models.DateTimeField(null=True)
    last_commit_at = models.DateTimeField(null=True)
    problem = models.TextField(null=True)

    class Meta:
        db_table = '"recovery"."wal_segments"'
        verbose_name = "WAL segment"
        ordering = ["-number", "-timeline"]

    def __str__(self) -> str:
        return f"{self.name}{f': {self.problem}' if self.problem else ''}"


class Timeline(models.Model):
    """A timeline that began by a promotion, and where it left its parent."""

    timeline = models.IntegerField(primary_key=True)
    parent = models.IntegerField()
    switch_lsn = models.BigIntegerField()

    class Meta:
        db_table = '"recovery"."timelines"'
        ordering = ["-timeline"]

    def __str__(self) -> str:
        return f"timeline {self.timeline}, from {self.parent}"


class RestorePoint(models.Model):
    """A named restore point (pg_create_restore_point) in the archive."""

    point_id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.TextField()
    timeline = models.IntegerField()
    lsn = models.BigIntegerField()
    segment = models.CharField(max_length=24)

    class Meta:
        db_table = '"recovery"."restore_points"'
        ordering = ["-lsn"]

    def __str__(self) -> str:
        return self.name


class ArchiveState(models.Model):
    """What the continuity job found when it last looked at a server's archive.

    A restore would reach `archived_lsn`, and the commit of `last_commit_at`; None: no commit is archived yet.
    """

    system_identifier = models.TextField(primary_key=True)
    timeline = models.IntegerField()
    segment_bytes = models.BigIntegerField()
    checked_at = models.DateTimeField()
    archived_lsn = models.BigIntegerField()
    last_commit_at = models.DateTimeField(null=True)
    problems = ArrayField(models.TextField(), default=list, db_default=RawSQL("'{}'::text[]", []))

    class Meta:
        db_table = '"recovery"."archive_state"'
        verbose_name_plural = "archive state"

    def __str__(self) -> str:
        return f"WAL archive of server {self.system_identifier}"


class Upload(models.Model):
    """An object of the store: one part of a backup, or a file of the WAL archive; in the order of `upload_id`.

    `backup_id` None: WAL. `uploaded_at` None: it waits; `error` says why the last of `attempts` failed. `sha256` and
    `stored_bytes` are of the object, encrypted with the key `key_id`, None: not encrypted. `doomed_at`: out of
    retention since then, it goes when the grace is over.
    """

    upload_id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    store = models.TextField()
    key = models.TextField()
    backup_id = models.UUIDField(null=True)
    size_bytes = models.BigIntegerField()
    stored_bytes = models.BigIntegerField(null=True)
    sha256 = models.TextField(null=True)
    key_id = models.TextField(null=True)
    queued_at = models.DateTimeField(default=timezone.now, db_default=Now())
    uploaded_at = models.DateTimeField(null=True)
    attempts = models.IntegerField(default=0, db_default=0)
    error = models.TextField(null=True)
    doomed_at = models.DateTimeField(null=True)

    class Meta:
        db_table = '"recovery"."uploads"'
        ordering = ["-upload_id"]
        verbose_name = "object in the store"
        verbose_name_plural = "objects in the store"

    def __str__(self) -> str:
        return self.key
