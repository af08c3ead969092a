"""What is on its way to JetStream, what JetStream refuses, and whose write lost (schema `bridge`)."""

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.functions import Now


class Op(models.TextChoices):
    """What a row asks of JetStream. An event is never coalesced."""

    UPDATE = "U"
    DELETE = "D"
    EVENT = "E"


class OneByteField(models.CharField):
    """PostgreSQL's internal one-byte type "char"."""

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        return '"char"'


class OutboxRow(models.Model):
    """A change that PostgreSQL has committed and JetStream has not seen. Triggers write it, the relay removes it."""

    outbox_id = models.BigAutoField(primary_key=True)
    target = models.TextField(help_text="the KV bucket, or for an event the stream")
    key = models.TextField(help_text="the key in the bucket, or for an event the whole subject")
    op = OneByteField(max_length=1, choices=Op)
    base_revision = models.BigIntegerField(null=True)
    payload = models.JSONField(null=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = '"bridge"."outbox"'
        verbose_name = "outbox row"

    def __str__(self) -> str:
        return f"{self.outbox_id} {self.target} {self.key}"


class QuarantinedRow(models.Model):
    """An outbox row that NATS refuses for good. Later rows of its key wait until it is sent again or dropped."""

    outbox_id = models.BigIntegerField(primary_key=True)
    target = models.TextField()
    key = models.TextField()
    op = OneByteField(max_length=1, choices=Op)
    base_revision = models.BigIntegerField(null=True)
    payload = models.JSONField(null=True)
    created_at = models.DateTimeField()
    error = models.TextField()
    attempts = models.IntegerField()
    quarantined_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = '"bridge"."quarantine"'
        verbose_name = "quarantined row"

    def __str__(self) -> str:
        return f"{self.outbox_id} {self.target} {self.key}"


class Conflict(models.Model):
    """An agent's value in KV that a write from PostgreSQL replaced unseen. `kv_value` None: it had deleted the key."""

    conflict_id = models.BigAutoField(primary_key=True)
    outbox_id = models.BigIntegerField(null=True)
    target = models.TextField()
    key = models.TextField()
    strategy = models.TextField(db_default="last_write_wins")
    base_revision = models.BigIntegerField()
    kv_revision = models.BigIntegerField()
    kv_value = models.TextField(null=True)
    pg_value = models.JSONField(null=True)
    noticed_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = '"bridge"."conflict"'

    def __str__(self) -> str:
        return f"{self.target} {self.key} at revision {self.kv_revision}"
