from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models.functions import Now

from pg.uuid7 import uuid7


class Policy(models.Model):
    """How one time-partitioned table is kept (guide 13.2: daily partitions, 30 days).

    `keep_days` None keeps all. on_expiry: archive = drop only what is archived and verified. A row follows what the
    table's model declares (`partitions.declare`), after each migrate, until somebody changes it by hand.
    """

    class Interval(models.TextChoices):
        HOUR = "hour"
        DAY = "day"
        WEEK = "week"
        MONTH = "month"

    class OnExpiry(models.TextChoices):
        ARCHIVE = "archive"
        DROP = "drop"
        KEEP = "keep"

    table_name = models.CharField(max_length=127, primary_key=True)
    partition_interval = models.CharField(
        max_length=5,
        choices=Interval,
        default=Interval.DAY,
        db_default=Interval.DAY,
        help_text="Length of new partitions, aligned in UTC. Those that exist stay as they are.",
    )
    make_ahead_days = models.IntegerField(
        default=14,
        db_default=14,
        validators=[MinValueValidator(1), MaxValueValidator(400)],
        help_text="Partitions are made for so many days from now. Below 3 days of cover is an alarm.",
    )
    keep_days = models.IntegerField(
        default=30,
        db_default=30,
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="A partition is kept for so many days after its last moment. Empty: for ever.",
    )
    on_expiry = models.CharField(
        max_length=10,
        choices=OnExpiry,
        default=OnExpiry.ARCHIVE,
        db_default=OnExpiry.ARCHIVE,
        help_text="Archive: drop what is archived and verified. Drop: without an archive. Keep: never drop.",
    )
    is_overridden = models.BooleanField(default=False, db_default=False, editable=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        db_table = '"partitions"."policies"'
        ordering = ["table_name"]
        verbose_name_plural = "policies"

    def __str__(self) -> str:
        return self.table_name


class Run(models.Model):
    """One run of upkeep: who, when, what was planned, what became of each step. None in `finished_at`: not finished."""

    class Status(models.TextChoices):
        REQUESTED = "requested"  # by the admin; no worker has taken it yet
        RUNNING = "running"
        DONE = "done"
        FAILED = "failed"  # at least one step; the others were done
        INTERRUPTED = "interrupted"  # its process died

    class Origin(models.TextChoices):
        BEAT = "beat"
        COMMAND = "command"
        ADMIN = "admin"

    run_id = models.UUIDField(primary_key=True, default=uuid7)
    status = models.CharField(
        max_length=12, choices=Status, default=Status.RUNNING, db_default=Status.RUNNING
    )
    origin = models.CharField(max_length=10, choices=Origin)
    actor = models.CharField(max_length=150, db_default="", default="")
    reason = models.TextField(db_default="", default="")
    started_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True)
    steps = models.JSONField(default=list, db_default=models.Value([], models.JSONField()))
    lock_wait_ms = models.IntegerField(default=0, db_default=0)
    error = models.TextField(null=True)

    class Meta:
        db_table = '"partitions"."runs"'
        ordering = ["-run_id"]
        permissions: ClassVar = [("apply_plan", "Can apply a partition plan")]

    def __str__(self) -> str:
        return f"{self.started_at:%Y-%m-%d %H:%M} {self.status}"


class Archive(models.Model):
    """A partition in a file. `dropped_at` None: the partition is still there as well. See `partitions.archive`."""

    class State(models.TextChoices):
        WRITING = "writing"
        VERIFIED = "verified"
        STALE = "stale"
        DAMAGED = "damaged"

    archive_id = models.UUIDField(primary_key=True, default=uuid7)
    table_name = models.CharField(max_length=127)
    partition_name = models.CharField(max_length=127)
    partition_oid = models.BigIntegerField()
    lower_time = models.DateTimeField()
    upper_time = models.DateTimeField()
    state = models.CharField(max_length=8, choices=State, default=State.WRITING, db_default=State.WRITING)
    location = models.TextField()  # below the archive folder
    columns = ArrayField(models.TextField())
    row_count = models.BigIntegerField(null=True)
    checksum = models.TextField(null=True)
    sha256 = models.CharField(max_length=64, null=True)
    size_bytes = models.BigIntegerField(null=True)
    table_bytes = models.BigIntegerField()
    uploaded_to = models.TextField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    verified_at = models.DateTimeField(null=True)
    dropped_at = models.DateTimeField(null=True)
    error = models.TextField(null=True)

    class Meta:
        db_table = '"partitions"."archives"'
        ordering = ["-lower_time", "table_name", "-archive_id"]
        permissions: ClassVar = [("attach_archive", "Can attach an archived partition and let it go")]

    def __str__(self) -> str:
        return self.partition_name


class Mark(models.Model):
    """What the catalog cannot say of a partition; see the table's comment. Rows come and go with upkeep."""

    class Kind(models.TextChoices):
        EXPIRING = "expiring"
        KEPT = "kept"
        LOADING = "loading"
        BROUGHT_BACK = "brought back"
        RELEASING = "releasing"

    partition_oid = models.BigIntegerField(primary_key=True)
    partition_name = models.CharField(max_length=127)
    table_name = models.CharField(max_length=127)
    lower_time = models.DateTimeField()
    upper_time = models.DateTimeField()
    kind = models.CharField(max_length=12, choices=Kind)
    archive = models.OneToOneField(Archive, models.DO_NOTHING, null=True, related_name="mark")
    marked_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = '"partitions"."marks"'
        ordering = ["table_name", "lower_time"]

    def __str__(self) -> str:
        return f"{self.partition_name} ({self.kind})"
