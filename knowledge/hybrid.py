"""Search by words, by meaning, or by both: two lists become one by reciprocal rank fusion."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from knowledge.embeddings import find_model
from knowledge.errors import BadQuery, BadVector, NoVectors, ProviderFailed, ProviderUnavailable, UnknownModel
from knowledge.models import EmbeddingModel, Fact
from knowledge.nearest import Filters, nearest_facts
from knowledge.providers import provider_of
from knowledge.search import MAX_LIMIT, Hit, check_limit, hit_of, search_text
from pg.queries import Queries

QUERIES = Queries("knowledge")
Entity = tuple[str, str]  # type and id
Mode = Literal["text", "semantic", "hybrid"]
RRF_K = 60  # how fast a place in a list loses weight: 1 / (60 + place)
POOL_FACTS = 50  # taken of each list at least; several may be of one entity
MAX_QUERY_CHARACTERS = 4_000


@dataclass(frozen=True)
class Found:
    """Hits, best first, one per entity. `mode` is what was done; `warnings` say why it is less than was asked for."""

    hits: list[Hit]
    mode: Mode
    warnings: list[str] = field(default_factory=list)


def search(
    query: str,
    limit: int = 10,
    *,
    mode: Mode = "hybrid",
    as_of: datetime | None = None,
    known_at: datetime | None = None,
    entity_type: str | None = None,
) -> Found:
    """Return what is found, one hit per entity; `more` of a hit counts what else was found of it.

    text: by words alone. semantic: by meaning alone. hybrid: by both; by words alone where there are no vectors, the
    provider does not answer, or the query has "a phrase" or -word, which only words can obey. The score is comparable
    within one answer only. Raises BadQuery; in semantic mode NoVectors and what Provider.embed raises.
    """
    check_limit(limit)
    filters = Filters(as_of, known_at, entity_type)
    pool = min(MAX_LIMIT, max(POOL_FACTS, 3 * limit))
    if mode == "text" or (mode == "hybrid" and asks_for_words(query)):
        return Found(by_words(query, pool, filters)[:limit], "text")
    try:
        meant = by_meaning(query, pool, filters)
    except (NoVectors, UnknownModel, ProviderUnavailable, ProviderFailed, BadVector) as error:
        if mode == "semantic":
            raise
        hits = by_words(query, pool, filters)[:limit]
        return Found(hits, "text", [f"searched by words only: {error}. {error.hint}".rstrip(". ")])
    if mode == "semantic":
        return Found(meant[:limit], mode)
    return Found(fuse(by_every_word(query, pool, filters), meant)[:limit], mode)


def asks_for_words(query: str) -> bool:
    return re.search(r'"|(^|\s)-\w', query) is not None


def by_words(query: str, pool: int, filters: Filters) -> list[Hit]:
    return one_per_entity(search_text(query, pool, **vars(filters)))


def by_every_word(query: str, pool: int, filters: Filters) -> list[Hit]:
    """Return the facts that have every word: what has only some of them is found better by its meaning."""
    try:
        return one_per_entity(search_text(query, pool, any_word=False, **vars(filters)))
    except BadQuery:  # "how do I do that?" has a meaning, and no word that is indexed
        return []


def by_meaning(query: str, pool: int, filters: Filters) -> list[Hit]:
    """Return the facts that mean something like the query, the nearest first. Raises NoVectors, BadQuery."""
    text = " ".join(query.replace("\0", " ").split())[:MAX_QUERY_CHARACTERS]
    if not text:
        raise BadQuery("the query is empty", "say what you look for")
    model = find_model()
    check_vectors(model)
    near = nearest_facts(model, provider_of(model).embed([text])[0], pool, filters)
    facts = Fact.objects.select_related("source_agent").in_bulk([fact_id for fact_id, _ in near])
    return one_per_entity(
        hit_of(facts[fact_id], 1 - distance, similarity=round(1 - distance, 3))
        for fact_id, distance in near
        if fact_id in facts
    )


def check_vectors(model: EmbeddingModel) -> None:
    if not QUERIES.run("has_vectors", {"model": model.model_name})[0]["found"]:
        raise NoVectors(
            f"no fact has a vector of {model} yet",
            "a worker makes them by and by, manage.py knowledge embed at once; see manage.py knowledge models",
        )


def fuse(worded: list[Hit], meant: list[Hit]) -> list[Hit]:
    """Return both lists, each with one hit per entity, as one: an entity scores 1 / (RRF_K + its place) in each.

    Of two hits of an entity the one that was found by meaning is shown.
    """
    scores: dict[Entity, float] = defaultdict(float)
    hits: dict[Entity, Hit] = {}
    for found in (worded, meant):
        for place, hit in enumerate(found, start=1):
            scores[entity_of(hit)] += 1 / (RRF_K + place)
            hits[entity_of(hit)] = hit
    fused = [replace(hit, score=round(scores[entity], 4)) for entity, hit in hits.items()]
    return sorted(fused, key=lambda hit: -scores[entity_of(hit)])


def one_per_entity(hits: Iterable[Hit]) -> list[Hit]:
    """Return the best hit of each entity, in order; `more` counts the entity's others."""
    groups: dict[Entity, list[Hit]] = defaultdict(list)
    for hit in hits:
        groups[entity_of(hit)].append(hit)
    return [replace(group[0], more=len(group) - 1) for group in groups.values()]


def entity_of(hit: Hit) -> Entity:
    return hit.entity_type, hit.entity_id
