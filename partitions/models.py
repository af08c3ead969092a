from django.db import models
from django.db.models.functions import Now


class Policy(models.Model):
    """How one time-partitioned table is kept (guide 13.2: daily partitions, 30 days).

    `keep_days` None keeps all. on_expiry: archive = drop only what is archived and verified.
    """

    class OnExpiry(models.TextChoices):
        ARCHIVE = "archive"
        DROP = "drop"
        KEEP = "keep"

    table_name = models.CharField(max_length=127, primary_key=True)
    make_ahead_days = models.IntegerField(default=14, db_default=14)
    keep_days = models.IntegerField(default=30, db_default=30, null=True, blank=True)
    on_expiry = models.CharField(
        max_length=10, choices=OnExpiry, default=OnExpiry.ARCHIVE, db_default=OnExpiry.ARCHIVE
    )
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        db_table = '"partitions"."policies"'
        ordering = ["table_name"]
        verbose_name_plural = "policies"

    def __str__(self) -> str:
        return self.table_name
