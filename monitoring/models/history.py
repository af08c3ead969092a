"""What was, for trends: one row per look, kept for 90 days in daily partitions."""

from django.db import models

from pg.querysets import TimeWindowQuerySet
from pg.uuid7 import uuid7, uuid7_time


class Snapshot(models.Model):
    """Figures of one moment. How the table is partitioned is said in `partitions.apps`: that room lies above this one.

    `data` of `load`: {"server": {figure: value}, "pools": [{"pool", "connections", "busy"}]}; of `growth`:
    {"tables": {name: [bytes, rows]}, "database_bytes": n}.
    """

    class Kind(models.TextChoices):
        LOAD = "load"  # each minute
        GROWTH = "growth"  # each hour

    snapshot_id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    kind = models.TextField(choices=Kind)
    data = models.JSONField()

    objects = TimeWindowQuerySet.as_manager()

    class Meta:
        db_table = '"monitoring"."snapshots"'

    def __str__(self) -> str:
        return f"{self.kind} at {uuid7_time(self.snapshot_id):%Y-%m-%d %H:%M}"
