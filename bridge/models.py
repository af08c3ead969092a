"""What is on its way to JetStream, what JetStream refuses, and whose write lost (schema `bridge`)."""

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.functions import Now


class Op(models.TextChoices):
    """What a row asks of JetStream. An event is never coalesced."""

    UPDATE = "U"
    DELETE = "D"
    EVENT = "E"


class Strategy(models.TextChoices):
    """Who wins when PostgreSQL and an agent wrote a key without having seen each other."""

    LAST_WRITE_WINS = "last_write_wins", "Last write wins"
    TIMESTAMP = "timestamp", "The later one by its time"
    REJECT = "reject", "The agent's write stays"


FENCED = "fenced"  # not chosen by anybody: the agent's write came from an older epoch


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
    strategy = models.TextField(null=True, choices=Strategy)
    expires_at = models.DateTimeField(null=True)
    event = models.TextField(
        null=True, help_text="the subject on TASK_EXECUTION under which the payload is an event too"
    )

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
    strategy = models.TextField(null=True)
    expires_at = models.DateTimeField(null=True)

    class Meta:
        db_table = '"bridge"."quarantine"'
        verbose_name = "quarantined row"

    def __str__(self) -> str:
        return f"{self.outbox_id} {self.target} {self.key}"


class Conflict(models.Model):
    """Two writes of one key that had not seen each other: the agent's in KV and PostgreSQL's. The loser is kept here.

    `kv_value` None: the agent had deleted the key; `pg_value` None: PostgreSQL had.
    """

    class Winner(models.TextChoices):
        POSTGRESQL = "postgresql", "PostgreSQL"
        AGENT = "agent", "The agent"

    conflict_id = models.BigAutoField(primary_key=True)
    outbox_id = models.BigIntegerField(null=True)
    target = models.TextField()
    key = models.TextField()
    strategy = models.TextField(
        db_default=Strategy.LAST_WRITE_WINS.value,
        choices=[*Strategy.choices, (FENCED, "The agent's epoch was over")],
    )
    winner = models.TextField(db_default=Winner.POSTGRESQL.value, choices=Winner)
    base_revision = models.BigIntegerField()
    kv_revision = models.BigIntegerField()
    kv_value = models.TextField(null=True)
    pg_value = models.JSONField(null=True)
    noticed_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = '"bridge"."conflict"'

    def __str__(self) -> str:
        return f"{self.target} {self.key} at revision {self.kv_revision}"


class Phase(models.TextChoices):
    """Where an agent's state is."""

    COLD = "cold", "Cold"  # in PostgreSQL alone
    HYDRATING = "hydrating", "Hydrating"  # on its way to KV
    ACTIVE = "active", "Active"  # in KV, which the agent writes
    FLUSHING = "flushing", "Flushing"  # the agent ends; its last writes are on their way to PostgreSQL
    EXPIRED = "expired", "Expired"  # KV forgot it, for nobody wrote


class Hydration(models.Model):
    """The phase of one agent's state; an agent without a row is cold."""

    agent = models.OneToOneField(
        "agents.Agent", models.DO_NOTHING, primary_key=True, db_column="agent_id", related_name="+"
    )
    phase = models.CharField(max_length=10, choices=Phase, default=Phase.COLD, db_default=Phase.COLD.value)
    keys = models.IntegerField(default=0, db_default=0)
    stored = models.IntegerField(default=0, db_default=0)
    error = models.TextField(default="", db_default="", blank=True)
    moved_at = models.DateTimeField(db_default=Now())
    hydrated_at = models.DateTimeField(null=True)

    class Meta:
        db_table = '"bridge"."hydration"'
        verbose_name_plural = "hydration"

    def __str__(self) -> str:
        return f"{self.agent_id}: {self.phase}"


class ConflictRule(models.Model):
    """The strategy for a bucket, or for those of its keys that begin with a prefix; the longest that fits counts."""

    conflict_rule_id = models.BigAutoField(primary_key=True)
    bucket = models.TextField(choices=[("AGENT_STATE", "AGENT_STATE"), ("SESSION_DATA", "SESSION_DATA")])
    key_prefix = models.TextField(
        default="",
        db_default="",
        blank=True,
        help_text="Beginning of the key, or in AGENT_STATE of the state key in it. Empty: the whole bucket."
        " The longest that fits counts.",
    )
    strategy = models.TextField(choices=Strategy)

    class Meta:
        db_table = '"bridge"."conflict_rules"'
        verbose_name = "conflict rule"
        constraints = [models.UniqueConstraint(fields=["bucket", "key_prefix"], name="one_rule_per_prefix")]

    def __str__(self) -> str:
        return f"{self.bucket} {self.key_prefix or '(all)'}: {self.strategy}"


class Source(models.Model):
    """A bucket that agents write. `kv_epoch`: when it was made, in microseconds since 1970; `flushed_sequence`: all
    messages of its FLUSH stream up to here are committed."""

    bucket = models.TextField(primary_key=True)
    kv_epoch = models.BigIntegerField(db_default=0)
    flushed_sequence = models.BigIntegerField(db_default=0)
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = '"bridge"."sources"'

    def __str__(self) -> str:
        return self.bucket


class DeadLetter(models.Model):
    """A message from JetStream that could not be applied. Nothing waits for it."""

    dead_letter_id = models.BigAutoField(primary_key=True)
    consumer = models.TextField()
    stream = models.TextField()
    stream_epoch = models.BigIntegerField()
    stream_sequence = models.BigIntegerField()
    subject = models.TextField()
    headers = models.JSONField(default=dict)
    payload = models.BinaryField()
    stored_at = models.DateTimeField()
    error = models.TextField()
    attempts = models.IntegerField(db_default=1)
    first_failed_at = models.DateTimeField(db_default=Now())
    last_failed_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = '"bridge"."dead_letters"'
        verbose_name = "dead letter"

    def __str__(self) -> str:
        return f"{self.subject} ({self.stream} {self.stream_sequence})"


class Process(models.Model):
    """A bridge that runs, or ran within the last day. `figures`: what its parts measured, see bridge/figures.py."""

    process_id = models.UUIDField(primary_key=True)
    host = models.TextField()
    pid = models.IntegerField()
    started_at = models.DateTimeField(db_default=Now())
    seen_at = models.DateTimeField(db_default=Now())
    figures = models.JSONField(default=dict)

    class Meta:
        db_table = '"bridge"."processes"'
        verbose_name_plural = "processes"

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


class Hold(models.Model):
    """PostgreSQL was restored, and JetStream is not brought to the same moment yet: the bridge stands still."""

    hold_id = models.SmallIntegerField(primary_key=True, default=1, db_default=1)
    reason = models.TextField()
    details = models.JSONField(default=dict)
    since = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = '"bridge"."hold"'
        verbose_name_plural = "hold"

    def __str__(self) -> str:
        return self.reason
