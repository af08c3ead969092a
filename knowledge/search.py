"""Find facts by their words. `knowledge.hybrid` asks by meaning as well."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.contrib.postgres.search import SearchQuery, SearchRank
from django.db.models import F, Q

from knowledge.errors import BadQuery
from knowledge.models import Fact
from pg.queries import Queries

QUERIES = Queries("knowledge")
MAX_LIMIT = 1_000
# D, C, B, A: nothing, the value, the predicate, the entity's name; as PostgreSQL has them by default
WEIGHTS = [0.1, 0.2, 0.4, 1.0]


class StemmedQuery(SearchQuery):
    """A tsquery as PostgreSQL prints it: its words are stems, which to_tsquery would stem again ("argparse" to
    "argpars" to "argpar")."""

    template = "%(expressions)s::tsquery"

    def __init__(self, stems: str) -> None:
        super().__init__(stems)


@dataclass(frozen=True)
class Hit:
    """A fact that was found, and who said it. `source_agent` is a name; None: no agent of ours said it.

    `similarity`: -1 to 1, how near its meaning is to the query's; None: found by its words only. `more`: how many other
    facts of its entity were found, where these are left out.
    """

    score: float
    entity_type: str
    entity_id: str
    predicate: str
    text: str
    fact_id: UUID
    confidence: Decimal | None
    source_agent: str | None
    evidence: dict[str, Any]
    valid_from: datetime
    valid_until: datetime | None
    similarity: float | None = None
    more: int = 0


def search_text(
    query: str,
    limit: int = 10,
    *,
    as_of: datetime | None = None,
    known_at: datetime | None = None,
    entity_type: str | None = None,
    any_word: bool = True,
) -> list[Hit]:
    """Return the facts that have every word of `query`, best first; where there is none and `any_word` is set, those
    that have any.

    Words are compared by their English stems, in the entity's name, the predicate and the value. "Quoted words" are a
    phrase, `-word` excludes, `or` is or. `as_of` and `known_at`: what held, and was known, at those times (None: now).
    Two or three queries. Raises BadQuery where nothing is left to look for.
    """
    check_limit(limit)
    words = read_words(query)
    found = Fact.objects.held(as_of, known_at)
    if entity_type is not None:
        found = found.filter(entity_type=entity_type)
    hits = _best(found, words["every_word"], limit)
    return hits if hits or not any_word else _best(found, words["any_word"], limit)


def check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_LIMIT:
        raise BadQuery(f"limit={limit}: must be 1 to {MAX_LIMIT}")


def read_words(query: str) -> dict[str, str]:
    """Return the query as two tsquery texts: `every_word` and `any_word`. One query."""
    words = QUERIES.run("read_words", {"query": query.replace("\0", " ")})[0]
    if not words["any_word"]:
        raise BadQuery(
            f"{query!r} has no word to look for",
            "words like 'the' and 'of' are not indexed, and -word only narrows other words down",
        )
    return words


def _best(found: Any, words: str, limit: int) -> list[Hit]:
    query = StemmedQuery(words)
    rank = SearchRank(F("search_text"), query, weights=WEIGHTS, cover_density=True)
    rows = found.filter(search_text=query).annotate(score=rank, is_text=Q(object_type="text"))
    rows = rows.select_related("source_agent")
    return [
        hit_of(row, row.score)
        for row in rows.order_by("-score", "-is_text", "entity_id", "predicate")[:limit]
    ]


def hit_of(fact: Any, score: float, similarity: float | None = None) -> Hit:
    return Hit(
        score=round(score, 4),
        entity_type=fact.entity_type,
        entity_id=fact.entity_id,
        predicate=fact.predicate,
        text=fact.text,
        fact_id=fact.pk,
        confidence=fact.confidence_score,
        source_agent=fact.source_agent.agent_name if fact.source_agent else None,
        evidence=fact.evidence,
        valid_from=fact.valid_from,
        valid_until=fact.valid_until,
        similarity=similarity,
    )
