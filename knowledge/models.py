"""Facts with provenance and validity, and their embeddings (guide 9.2, schema `knowledge`)."""

import json
from typing import Any

from django.contrib.postgres.search import SearchVectorField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models.expressions import RawSQL
from django.db.models.functions import Now
from pgvector.django import HalfVectorField

from agents.models import Agent
from knowledge.querysets import FactManager
from partitions.declare import by_list
from pg.uuid7 import uuid7


class Fact(models.Model):
    """Something an agent holds to be true: entity, predicate, value.

    It holds from `valid_from` until `valid_until` (None: open). It was recorded at `created_at`; its end was learned at
    `closed_at` (None: open); at `retracted_at` it was found to be wrong (None: it stands).
    """

    fact_id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    entity_type = models.CharField(max_length=100)
    entity_id = models.CharField(max_length=255)
    predicate = models.CharField(max_length=255)
    object_value = models.JSONField()
    object_type = models.CharField(max_length=50)
    is_multivalued = models.BooleanField(default=False, db_default=False)
    source_agent = models.ForeignKey(
        Agent, models.DO_NOTHING, null=True, blank=True, db_column="source_agent_id", related_name="facts"
    )
    confidence_score = models.DecimalField(max_digits=4, decimal_places=3, null=True, blank=True)
    evidence = models.JSONField(default=dict, db_default=RawSQL("'{}'::jsonb", []), blank=True)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(db_default=Now(), editable=False)
    valid_from = models.DateTimeField(db_default=Now())
    valid_until = models.DateTimeField(null=True, blank=True)
    closed_at = models.DateTimeField(null=True, editable=False)
    retracted_at = models.DateTimeField(null=True, editable=False)
    superseded_by = models.ForeignKey(
        "self",
        models.DO_NOTHING,
        null=True,
        editable=False,
        db_column="superseded_by",
        related_name="supersedes",
    )
    search_text = models.GeneratedField(
        expression=RawSQL("knowledge.fact_search_text(entity_id, predicate, object_value)", []),
        output_field=SearchVectorField(null=True),
        db_persist=True,
    )

    objects = FactManager()

    class Meta:
        db_table = '"knowledge"."facts"'
        base_manager_name = "objects"

    def __str__(self) -> str:
        return f"{self.entity_id} {self.predicate}"

    @property
    def text(self) -> str:
        """The value as a person reads it: its text, or its JSON."""
        return text_of(self.object_value)


def text_of(value: Any) -> str:
    """Return `text_content` of an object, a string as it is, anything else as compact JSON."""
    if isinstance(value, dict) and isinstance(value.get("text_content"), str):
        return str(value["text_content"])
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


class EmbeddingModel(models.Model):
    """A model that makes embeddings. Its name is the partition key of the embeddings.

    At `caught_up_at` all facts older than an hour had vectors of this version (None: the first load is not done).
    """

    class State(models.TextChoices):
        ACTIVE = "active"
        PAUSED = "paused"
        RETIRED = "retired"

    model_name = models.CharField(max_length=100, primary_key=True)
    model_version = models.CharField(max_length=20)
    dimensions = models.IntegerField(validators=[MinValueValidator(1), MaxValueValidator(4000)])
    provider = models.CharField(max_length=50)
    is_default = models.BooleanField(default=False, db_default=False)
    state = models.CharField(
        max_length=20,
        choices=State,
        default=State.PAUSED,
        db_default=State.PAUSED,
        help_text="active: new facts get vectors; paused: they wait; retired: the vectors are gone",
    )
    caught_up_at = models.DateTimeField(null=True, editable=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        db_table = '"knowledge"."models"'

    def __str__(self) -> str:
        return self.model_name


class Embedding(models.Model):
    """The vector of one text of a fact by one model; in the partition of that model."""

    partitioning = by_list("embedding_model", unique_key=("embedding_id", "embedding_model"))

    embedding_id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    fact = models.ForeignKey(Fact, models.DO_NOTHING, db_column="fact_id", related_name="embeddings")
    embedding_model = models.ForeignKey(
        EmbeddingModel, models.DO_NOTHING, db_column="embedding_model", related_name="embeddings"
    )
    embedding_version = models.CharField(max_length=20)
    embedding_vector = HalfVectorField()
    text_content = models.TextField()
    content_hash = models.GeneratedField(
        expression=RawSQL("text_sha256(text_content)", []),
        output_field=models.CharField(max_length=64, null=True),
        db_persist=True,
    )
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        db_table = '"knowledge"."embeddings"'

    def __str__(self) -> str:
        return f"{self.embedding_model_id} of {self.fact_id}"
