"""Sessions of agents and users (guide 9.2, schema `sessions`)."""

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from agents.models import Agent
from partitions.declare import by_hash


class Session(models.Model):
    """An open session. Its id and digest come from the token, which is never stored: see `sessions.tokens`."""

    class Kind(models.TextChoices):
        INTERACTIVE = "interactive"
        API = "api"
        SYSTEM = "system"
        BACKGROUND = "background"

    partitioning = by_hash("session_id", 8)

    session_id = models.UUIDField(primary_key=True, editable=False)
    token_digest = models.BinaryField(max_length=32)
    agent = models.ForeignKey(
        Agent,
        models.DO_NOTHING,
        null=True,
        blank=True,
        db_column="agent_id",
        related_name="sessions",
        editable=False,
    )
    user_id = models.CharField(max_length=255, null=True, blank=True, editable=False)
    session_type = models.CharField(
        max_length=50, choices=Kind, default=Kind.INTERACTIVE, db_default=Kind.INTERACTIVE, editable=False
    )
    session_data = models.JSONField(default=dict, blank=True)
    preferences = models.JSONField(default=dict, blank=True)
    ip_address = models.GenericIPAddressField(null=True, blank=True, editable=False)
    user_agent = models.TextField(null=True, blank=True, editable=False)
    permissions = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    last_activity = models.DateTimeField(db_default=Now(), editable=False)
    expires_at = models.DateTimeField()

    class Meta:
        db_table = '"sessions"."active"'

    def __str__(self) -> str:
        return f"{self.session_type} session {self.session_id}"

    @property
    def is_live(self) -> bool:
        return self.expires_at > timezone.now()
