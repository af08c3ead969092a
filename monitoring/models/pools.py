"""What each process does with its connections, as it says itself (see `monitoring.process_pools`)."""

from datetime import timedelta

from django.db import models
from django.db.models.functions import Now

from pg.uuid7 import uuid7

FRESH = timedelta(seconds=45)


class FreshPools(models.Manager["ProcessPool"]):
    """Those of processes that live: renewed lately, by the server's clock."""

    def get_queryset(self) -> models.QuerySet["ProcessPool"]:
        return super().get_queryset().filter(seen_at__gt=Now() - FRESH)


class ProcessPool(models.Model):
    """One pool of one process. `maximum` None: it has no pool, and keeps the sessions that it needs. Counters are since
    the process began."""

    pool_id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    process = models.TextField(help_text="web, worker, upkeep, beat, bridge")
    host = models.TextField()
    pid = models.IntegerField()
    pool = models.TextField(help_text="its alias in DATABASES")
    maximum = models.IntegerField(null=True)
    connections = models.IntegerField()
    idle = models.IntegerField()
    waiting = models.IntegerField()
    requests = models.BigIntegerField()
    waited_seconds = models.FloatField()
    refused = models.BigIntegerField()
    lost = models.BigIntegerField()
    started_at = models.DateTimeField(db_default=Now(), editable=False)
    seen_at = models.DateTimeField(db_default=Now(), editable=False)

    objects = FreshPools()

    class Meta:
        db_table = '"monitoring"."process_pools"'
        verbose_name = "pool of a process"
        verbose_name_plural = "pools of processes"

    def __str__(self) -> str:
        return f"{self.pool} of {self.process} {self.host}:{self.pid}"
