"""Find the facts whose vectors are nearest to one.

Two ways: comparing all that pass the filters (exact), or asking the HNSW index and filtering what it finds (a few
thousandths are missed). PostgreSQL takes the second also for filters that leave few rows, where it is slower and may
find nothing at all; so the way is chosen here, by how many facts pass.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Cast
from pgvector import HalfVector
from pgvector.django import CosineDistance, HalfVectorField

from knowledge.models import Embedding, EmbeddingModel, Fact
from knowledge.vector_index import EXACT_ROWS
from pg.queries import Queries

QUERIES = Queries("knowledge")


@dataclass(frozen=True)
class Filters:
    """Which facts may be found: those that held `as_of` and were known at `known_at` (None: now), of one type (None:
    any)."""

    as_of: datetime | None = None
    known_at: datetime | None = None
    entity_type: str | None = None

    def facts(self) -> QuerySet[Fact]:
        held: QuerySet[Fact] = Fact.objects.held(self.as_of, self.known_at)
        return held if self.entity_type is None else held.filter(entity_type=self.entity_type)


def nearest_facts(
    model: EmbeddingModel, vector: list[float], limit: int, filters: Filters
) -> list[tuple[UUID, float]]:
    """Return up to `limit` facts with their cosine distance (0 to 2) to the vector, the nearest first.

    Two to four queries. Where the index gives up before it has found enough, all are compared.
    """
    if is_selective(filters):
        return read(exact_query(model, vector, filters), limit)
    with transaction.atomic():
        QUERIES.run("search_options")
        found = read(index_query(model, vector, filters), limit)
    return found if len(found) == limit else read(exact_query(model, vector, filters), limit)


def is_selective(filters: Filters) -> bool:
    """Tell whether so few texts pass the filters that comparing each is the faster way. Counts no further than that."""
    return filters.facts().filter(object_type="text").order_by()[: EXACT_ROWS + 1].count() <= EXACT_ROWS


def index_query(model: EmbeddingModel, vector: list[float], filters: Filters) -> QuerySet[Any]:
    """Return the query that PostgreSQL can answer from the model's index. It has to keep to the index's expression."""
    return vectors_with_distance(model, vector, filters).order_by("distance")


def exact_query(model: EmbeddingModel, vector: list[float], filters: Filters) -> QuerySet[Any]:
    """Return the query that compares all: `+ 0` is an order that no index has."""
    return vectors_with_distance(model, vector, filters).order_by(F("distance") + 0)


def vectors_with_distance(model: EmbeddingModel, vector: list[float], filters: Filters) -> QuerySet[Any]:
    made = Embedding.objects.filter(embedding_model=model, embedding_version=model.model_version)
    column = Cast("embedding_vector", HalfVectorField(dimensions=model.dimensions))
    distance = CosineDistance(column, HalfVector(vector))
    allowed = made.filter(fact__in=filters.facts().values("pk"))
    return allowed.annotate(distance=distance).values_list("fact_id", "distance")


def read(query: QuerySet[Any], limit: int) -> list[tuple[UUID, float]]:
    """Run the query; sort again, for a relaxed scan of the index comes slightly out of order."""
    return sorted(query[:limit], key=lambda row: (row[1], row[0]))
