"""Channels, subscriptions, the message log and deliveries (guide 9.2, schema `messages`)."""

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models.expressions import RawSQL
from django.db.models.functions import Now
from django.utils import timezone

from agents.models import Agent
from partitions.declare import by_time
from pg.fields import EnumField
from pg.querysets import TimeWindowQuerySet
from pg.uuid7 import uuid7


class MessageType(models.TextChoices):
    COMMAND = "command"
    QUERY = "query"
    RESPONSE = "response"
    NOTIFICATION = "notification"
    HEARTBEAT = "heartbeat"
    ERROR = "error"


class Channel(models.Model):
    """A named route that agents subscribe to."""

    class Kind(models.TextChoices):
        BROADCAST = "broadcast"
        DIRECT = "direct"
        TOPIC = "topic"
        QUEUE = "queue"

    channel_id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    channel_name = models.CharField(max_length=255, unique=True)
    channel_type = models.CharField(max_length=50, choices=Kind)
    description = models.TextField(null=True, blank=True)
    configuration = models.JSONField(default=dict, blank=True)
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        db_table = '"messages"."channels"'
        ordering = ["channel_name"]

    def __str__(self) -> str:
        return self.channel_name


class Subscription(models.Model):
    """`agent` listens to `channel`. `message_pattern` None: to every subject."""

    subscription_id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    agent = models.ForeignKey(Agent, models.DO_NOTHING, db_column="agent_id", related_name="subscriptions")
    channel = models.ForeignKey(
        Channel, models.DO_NOTHING, db_column="channel_id", related_name="subscriptions"
    )
    message_pattern = models.CharField(max_length=255, null=True, blank=True)
    filters = models.JSONField(default=dict, blank=True)
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        db_table = '"messages"."subscriptions"'

    def __str__(self) -> str:
        return f"{self.agent_id} to {self.channel_id}"


class Message(models.Model):
    """A message that was sent. Partitioned by the day in `message_id`, which the control plane mints.

    `delivered_at` and `processed_at` are the first recipient's; `Delivery` has each recipient's own.
    """

    partitioning = by_time("message_id")

    message_id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    channel = models.ForeignKey(
        Channel, models.DO_NOTHING, null=True, blank=True, db_column="channel_id", related_name="messages"
    )
    from_agent = models.ForeignKey(
        Agent,
        models.DO_NOTHING,
        null=True,
        blank=True,
        db_column="from_agent_id",
        related_name="sent_messages",
    )
    to_agent = models.ForeignKey(
        Agent,
        models.DO_NOTHING,
        null=True,
        blank=True,
        db_column="to_agent_id",
        related_name="received_messages",
    )
    broadcast_to_type = models.CharField(max_length=50, null=True, blank=True)
    message_type = EnumField(type_name="message_type", choices=MessageType)
    subject = models.CharField(max_length=255, null=True, blank=True)
    payload = models.JSONField(default=dict, blank=True)
    headers = models.JSONField(default=dict, blank=True)
    correlation_id = models.UUIDField(null=True, blank=True)
    reply_to = models.CharField(max_length=255, null=True, blank=True)
    sent_at = models.DateTimeField(db_default=Now())
    delivered_at = models.DateTimeField(null=True)
    processed_at = models.DateTimeField(null=True)
    delivery_attempts = models.IntegerField(default=0, validators=[MinValueValidator(0)])
    priority = models.IntegerField(default=0, validators=[MinValueValidator(0), MaxValueValidator(10)])
    expires_at = models.DateTimeField(null=True, blank=True)
    is_persistent = models.BooleanField(default=True)

    objects = TimeWindowQuerySet.as_manager()

    class Meta:
        db_table = '"messages"."log"'

    def __str__(self) -> str:
        return f"{self.message_type} {self.subject or self.message_id}"


class Delivery(models.Model):
    """What became of one message for one recipient.

    `queue` set: the subscribers of that channel share it, and `agent` is who has it now, or None. `next_at`: a pending
    one is not taken before, a delivered one is tried again unless it was acknowledged by then; None once it is over.
    """

    class State(models.TextChoices):
        PENDING = "pending"
        DELIVERED = "delivered"
        PROCESSED = "processed"
        FAILED = "failed"
        EXPIRED = "expired"

    partitioning = by_time("delivery_id", on_expiry="drop")

    delivery_id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    message = models.ForeignKey(
        Message, models.DO_NOTHING, db_column="message_id", db_constraint=False, related_name="deliveries"
    )
    agent = models.ForeignKey(
        Agent, models.DO_NOTHING, null=True, db_column="agent_id", related_name="deliveries"
    )
    queue = models.ForeignKey(
        Channel,
        models.DO_NOTHING,
        null=True,
        db_column="queue_id",
        db_constraint=False,
        related_name="deliveries",
    )
    state = models.CharField(max_length=20, choices=State, default=State.PENDING, db_default=State.PENDING)
    priority = models.IntegerField(default=0, db_default=0)
    attempts = models.IntegerField(default=0, db_default=0)
    next_at = models.DateTimeField(null=True, default=timezone.now)
    expires_at = models.DateTimeField(db_default=RawSQL("now() + interval '7 days'", []))
    error = models.TextField(null=True)
    created_at = models.GeneratedField(
        expression=RawSQL("partitions.uuid7_time(delivery_id)", []),
        output_field=models.DateTimeField(null=True),
        db_persist=True,
    )
    delivered_at = models.DateTimeField(null=True)
    processed_at = models.DateTimeField(null=True)

    objects = TimeWindowQuerySet.as_manager()

    class Meta:
        db_table = '"messages"."deliveries"'
        verbose_name_plural = "deliveries"

    def __str__(self) -> str:
        return f"{self.message_id} to {self.agent_id or self.queue_id}: {self.state}"
