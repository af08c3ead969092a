"""The registry, hot state, checkpoints and history of agents (guide 9.2, schema `agents`)."""

from typing import Any

from django.db import models
from django.db.models.expressions import RawSQL
from django.db.models.functions import Now

from partitions.declare import by_hash, by_time
from pg.fields import EnumField
from pg.querysets import TimeWindowQuerySet
from pg.uuid7 import uuid7


def default_metadata() -> dict[str, Any]:
    """Return what the database's own default gives: creation time and version (guide 9.1)."""
    from django.utils import timezone

    return {"created_at": timezone.now().isoformat(timespec="milliseconds"), "version": "1"}


class AgentStatus(models.TextChoices):
    """What the agent is meant to do. Allowed moves are rows of agents.status_transitions."""

    INITIALIZING = "initializing"
    ACTIVE = "active"
    IDLE = "idle"
    SUSPENDED = "suspended"
    TERMINATED = "terminated"
    ERROR = "error"


class Liveness(models.TextChoices):
    """Whether heartbeats arrive. Unknown: none has come yet."""

    UNKNOWN = "unknown"
    ALIVE = "alive"
    SUSPECT = "suspect"
    LOST = "lost"


class Agent(models.Model):
    """An agent of the fleet. `epoch` grows with each take-over, so that a zombie's writes can be refused."""

    agent_id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    agent_type = models.CharField(max_length=50)
    agent_name = models.CharField(max_length=255)
    status = EnumField(
        type_name="agent_status_type", choices=AgentStatus, default=AgentStatus.INITIALIZING, editable=False
    )
    capabilities = models.JSONField(default=dict, blank=True)
    configuration = models.JSONField(default=dict, blank=True)
    metadata = models.JSONField(default=default_metadata)
    parent = models.ForeignKey(
        "self", models.DO_NOTHING, null=True, blank=True, db_column="parent_agent_id", related_name="children"
    )
    liveness = models.CharField(
        max_length=10, choices=Liveness, default=Liveness.UNKNOWN, db_default=Liveness.UNKNOWN, editable=False
    )
    epoch = models.BigIntegerField(default=1, db_default=1, editable=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(db_default=Now(), editable=False)
    last_heartbeat = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        db_table = '"agents"."registry"'

    def __str__(self) -> str:
        return self.agent_name


class Heartbeat(models.Model):
    """The newest heartbeat of an agent; apart from the registry, whose rows foreign keys lock."""

    agent = models.OneToOneField(
        Agent, models.DO_NOTHING, primary_key=True, db_column="agent_id", related_name="heartbeat"
    )
    last_heartbeat = models.DateTimeField()
    details = models.JSONField(default=dict, db_default=RawSQL("'{}'::jsonb", []), blank=True)

    class Meta:
        db_table = '"agents"."heartbeats"'

    def __str__(self) -> str:
        return f"{self.agent_id} at {self.last_heartbeat:%Y-%m-%d %H:%M:%S}"


class AgentState(models.Model):
    """One key of an agent's state. `version` and `checksum` are kept by the database."""

    partitioning = by_hash("agent_id", 8, unique_key=("agent_id", "state_key"))

    state_id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    agent = models.ForeignKey(Agent, models.DO_NOTHING, db_column="agent_id", related_name="state")
    state_key = models.CharField(max_length=255)
    state_value = models.JSONField()
    version = models.BigIntegerField(db_default=1, editable=False)
    checksum = models.GeneratedField(
        expression=RawSQL("text_sha256(state_value::text)", []),
        output_field=models.CharField(max_length=64, null=True),
        db_persist=True,
    )
    kv_epoch = models.BigIntegerField(db_default=0, editable=False)
    kv_revision = models.BigIntegerField(db_default=0, editable=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(db_default=Now(), editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = '"agents"."state"'
        verbose_name_plural = "agent state"

    def __str__(self) -> str:
        return f"{self.agent_id}.{self.state_key}"


class Checkpoint(models.Model):
    """An agent's whole state at one moment. `kv_revision`: the bucket's last sequence then; None if NATS was away."""

    checkpoint_id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    agent = models.ForeignKey(Agent, models.DO_NOTHING, db_column="agent_id", related_name="checkpoints")
    checkpoint_name = models.CharField(max_length=255, null=True, blank=True)
    state_snapshot = models.JSONField()
    kv_revision = models.BigIntegerField(null=True, blank=True)
    trigger_event = models.CharField(max_length=100, null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        db_table = '"agents"."checkpoints"'

    def __str__(self) -> str:
        return self.checkpoint_name or str(self.checkpoint_id)


class LifecycleEvent(models.Model):
    """Something that happened to an agent. Rows are only added; partitioned by the day in `event_id`."""

    partitioning = by_time("event_id")

    event_id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    agent = models.ForeignKey(Agent, models.DO_NOTHING, db_column="agent_id", related_name="lifecycle_events")
    event_type = models.CharField(max_length=50)
    previous_status = EnumField(type_name="agent_status_type", choices=AgentStatus, null=True)
    new_status = EnumField(type_name="agent_status_type", choices=AgentStatus, null=True)
    event_data = models.JSONField(default=dict)
    triggered_by = models.ForeignKey(
        Agent, models.DO_NOTHING, null=True, db_column="triggered_by", related_name="triggered_events"
    )
    created_at = models.GeneratedField(
        expression=RawSQL("partitions.uuid7_time(event_id)", []),
        output_field=models.DateTimeField(null=True),
        db_persist=True,
    )

    objects = TimeWindowQuerySet.as_manager()

    class Meta:
        db_table = '"agents"."lifecycle_events"'

    def __str__(self) -> str:
        return f"{self.event_type} of {self.agent_id}"


class StateHistory(models.Model):
    """What a key of state held from `changed_at` on; a value of None: it was deleted."""

    partitioning = by_time("history_id", keep_days=7, on_expiry="drop")

    history_id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    agent = models.ForeignKey(
        Agent, models.DO_NOTHING, db_column="agent_id", db_constraint=False, related_name="state_history"
    )
    state_key = models.CharField(max_length=255)
    state_value = models.JSONField(null=True)
    version = models.BigIntegerField()
    kv_revision = models.BigIntegerField()
    changed_at = models.GeneratedField(
        expression=RawSQL("partitions.uuid7_time(history_id)", []),
        output_field=models.DateTimeField(null=True),
        db_persist=True,
    )

    objects = TimeWindowQuerySet.as_manager()

    class Meta:
        db_table = '"agents"."state_history"'
        verbose_name_plural = "state history"

    def __str__(self) -> str:
        return f"{self.agent_id}.{self.state_key} version {self.version}"


class TypeSettings(models.Model):
    """Switches of one agent type: history for the time machine, and when silence becomes suspect or lost."""

    agent_type = models.CharField(max_length=50, primary_key=True)
    keep_state_history = models.BooleanField(default=False, db_default=False)
    suspect_after_seconds = models.IntegerField(default=60, db_default=60)
    lost_after_seconds = models.IntegerField(default=180, db_default=180)

    class Meta:
        db_table = '"agents"."type_settings"'
        verbose_name_plural = "type settings"

    def __str__(self) -> str:
        return self.agent_type
