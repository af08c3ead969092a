"""Alarms as rows (schema `monitoring`). How a rule changes its state: `monitoring.alarms`."""

from django.db import models
from django.db.models.functions import Now


class State(models.TextChoices):
    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"


SEVERITY = {State.OK: 0, State.WARNING: 1, State.CRITICAL: 2}


class AlarmRule(models.Model):
    """Watches one metric. Of the series whose labels contain `labels`, the worst one counts."""

    class Direction(models.TextChoices):
        ABOVE = "above"
        BELOW = "below"

    rule_id = models.BigAutoField(primary_key=True)
    name = models.TextField(unique=True)
    description = models.TextField(default="", blank=True)
    hint = models.TextField(default="", blank=True, help_text="what to do when it rings")
    metric = models.TextField(help_text="as in /metrics, for instance mistersmith_outbox_oldest_seconds")
    labels = models.JSONField(
        default=dict, blank=True, help_text='only series with these, for instance {"pool": "web"}'
    )
    direction = models.TextField(choices=Direction, default=Direction.ABOVE)
    warning = models.FloatField(null=True, blank=True)
    critical = models.FloatField(null=True, blank=True)
    clear_margin = models.FloatField(
        default=0, help_text="a state ends only when the value is back beyond its threshold by this much"
    )
    hold_seconds = models.IntegerField(
        default=0,
        help_text="a value must stay beyond a threshold (or back) for this long before the state changes",
    )
    is_enabled = models.BooleanField(default=True)
    state = models.TextField(choices=State, default=State.OK, editable=False)
    state_since = models.DateTimeField(db_default=Now(), editable=False)
    pending_state = models.TextField(choices=State, null=True, editable=False)
    pending_since = models.DateTimeField(null=True, editable=False)
    value = models.FloatField(null=True, editable=False)
    problem = models.TextField(default="", editable=False, help_text="why there is no value")
    evaluated_at = models.DateTimeField(null=True, editable=False)
    silenced_until = models.DateTimeField(null=True, editable=False)
    silence_reason = models.TextField(default="", editable=False)

    class Meta:
        db_table = '"monitoring"."alarm_rules"'
        verbose_name = "alarm"

    def __str__(self) -> str:
        return self.name


class AlarmEvent(models.Model):
    """A rule changed its state."""

    event_id = models.BigAutoField(primary_key=True)
    rule = models.ForeignKey(AlarmRule, models.DO_NOTHING, related_name="events")
    from_state = models.TextField(choices=State)
    to_state = models.TextField(choices=State)
    value = models.FloatField(null=True)
    was_silenced = models.BooleanField(default=False)
    happened_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = '"monitoring"."alarm_events"'
        verbose_name = "alarm event"

    def __str__(self) -> str:
        return f"{self.from_state} to {self.to_state}"


class AlarmChannel(models.Model):
    """Where events are sent: POST to a URL, an e-mail, a NATS subject."""

    class Kind(models.TextChoices):
        WEBHOOK = "webhook"
        EMAIL = "email"
        NATS = "nats"

    channel_id = models.BigAutoField(primary_key=True)
    name = models.TextField(unique=True)
    kind = models.TextField(choices=Kind)
    target = models.TextField(help_text="URL, address or subject; env:NAME takes it from the environment")
    minimum_state = models.TextField(
        choices=[(value, label) for value, label in State.choices if value != State.OK], default=State.WARNING
    )
    is_enabled = models.BooleanField(default=True)

    class Meta:
        db_table = '"monitoring"."alarm_channels"'
        verbose_name = "alarm channel"

    def __str__(self) -> str:
        return self.name


class Notification(models.Model):
    """One event on its way to one channel."""

    class Status(models.TextChoices):
        PENDING = "pending"
        SENT = "sent"
        FAILED = "failed"

    notification_id = models.BigAutoField(primary_key=True)
    event = models.ForeignKey(AlarmEvent, models.DO_NOTHING, related_name="notifications")
    channel = models.ForeignKey(AlarmChannel, models.DO_NOTHING, related_name="notifications")
    status = models.TextField(choices=Status, default=Status.PENDING)
    attempts = models.IntegerField(default=0)
    next_at = models.DateTimeField(db_default=Now())
    sent_at = models.DateTimeField(null=True)
    error = models.TextField(default="")

    class Meta:
        db_table = '"monitoring"."notifications"'

    def __str__(self) -> str:
        return f"{self.status} after {self.attempts} attempts"
