"""Assert, retract, close and read facts.

An asserted value of a single-valued predicate replaces the open one: that ends where the new one begins and names its
successor. The value that holds already changes nothing, so asserting twice is safe. Who asserts last is right,
whoever it is; who said what before stays readable by `known_at`.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction

from knowledge.claims import Claim, newest_of_each_key
from knowledge.errors import BadClaim, Contended, UnknownFact
from knowledge.models import Fact
from pg.queries import Queries
from pg.uuid7 import uuid7

QUERIES = Queries("knowledge")
# each loss means that another writer got through; so many in a row mean something else
MAX_ATTEMPTS = 20


@dataclass(frozen=True)
class Asserted:
    """What a batch did. `fact_ids` are those that hold now, in the order of the claims given."""

    fact_ids: list[UUID]
    added: int = 0
    superseded: int = 0
    unchanged: int = 0


def assert_fact(entity_type: str, entity_id: str, predicate: str, value: Any, **options: Any) -> Fact:
    """Assert one fact; return the row that holds now. `options` are the other fields of `Claim`; raises like
    `assert_facts`."""
    done = assert_facts([Claim(entity_type, entity_id, predicate, value, **options)])
    return _get(done.fact_ids[0])


def assert_facts(claims: Iterable[Claim]) -> Asserted:
    """Assert a batch, all or nothing, in one statement. Of claims that contradict each other the last one counts.

    Safe to repeat, and beside other writers: the later one to store a key wins it. Raises BadClaim for an unknown
    source agent and for a value that would begin before what is known already, Contended (try again).
    """
    claims = list(claims)
    if not claims:
        return Asserted([])
    wanted = newest_of_each_key(claims)
    ids = {key: uuid7() for key in wanted}
    by_id = {ids[key]: claim for key, claim in wanted.items()}
    outcomes = _store(by_id)
    counts = Counter(outcome for _, outcome in outcomes.values())
    return Asserted(
        [outcomes[ids[claim.key]][0] for claim in claims],
        added=counts["added"],
        superseded=counts["superseded"],
        unchanged=counts["unchanged"],
    )


def _store(claims: dict[UUID, Claim]) -> dict[UUID, tuple[UUID, str]]:
    """Return `{new id: (id that holds now, outcome)}`. Each attempt is undone as a whole where a race was lost."""
    rows = json.dumps([claim.as_row(fact_id) for fact_id, claim in claims.items()])
    for _ in range(MAX_ATTEMPTS):
        with transaction.atomic():
            outcomes = _run(rows)
            refused = {new: known for new, (known, outcome) in outcomes.items() if outcome == "refused"}
            if refused:
                raise _backdated(claims, refused)
            if all(outcome != "lost" for _, outcome in outcomes.values()):
                return outcomes
            transaction.set_rollback(True)
    raise Contended(
        f"{len(claims)} facts: lost {MAX_ATTEMPTS} races for the same facts in a row", "try again"
    )


def _run(rows: str) -> dict[UUID, tuple[UUID, str]]:
    try:
        found = QUERIES.run("assert_facts", {"claims": rows})
    except IntegrityError as error:
        raise _refusal(error) from error
    return {row["fact_id"]: (row["known_id"], row["outcome"]) for row in found}


def _refusal(error: IntegrityError) -> BadClaim:
    text = str(error).splitlines()
    if "source_agent_id" in text[0]:
        return BadClaim(
            f"source agent: {text[-1].removeprefix('DETAIL:').strip()}", "see `manage.py agents list`"
        )
    return BadClaim(text[0])


def _backdated(claims: dict[UUID, Claim], refused: dict[UUID, UUID]) -> BadClaim:
    new, known = next(iter(refused.items()))
    claim, other = claims[new], Fact.objects.only("valid_from", "valid_until").get(pk=known)
    end = f" until {other.valid_until:%Y-%m-%d %H:%M:%S}" if other.valid_until else ""
    return BadClaim(
        f"{claim.entity_id} {claim.predicate}: another value is known from {other.valid_from:%Y-%m-%d %H:%M:%S}{end},"
        f" this one would begin {claim.valid_from or 'now'}",
        f"if that one is wrong, retract it first (fact {known})",
    )


def retract_fact(fact_id: UUID, reason: str = "") -> Fact:
    """Note that a fact was wrong from the start; return it. What it had replaced is not reopened.

    `known_at` before this moment still shows it. Safe to repeat: the first retraction stays. Raises UnknownFact.
    """
    QUERIES.run("retract_fact", {"fact_id": fact_id, "reason": reason})
    return _get(fact_id)


def close_fact(fact_id: UUID, valid_until: datetime | None = None) -> Fact:
    """End a fact that held until `valid_until` (None: until now) and has no successor; return it.

    Safe to repeat: a fact that has an end keeps it. Raises UnknownFact, BadClaim (an end before the beginning).
    """
    try:
        with transaction.atomic():
            QUERIES.run("close_fact", {"fact_id": fact_id, "valid_until": valid_until})
    except IntegrityError as error:
        raise BadClaim(f"valid_until={valid_until}: must be after the fact's beginning") from error
    return _get(fact_id)


def _get(fact_id: UUID) -> Fact:
    try:
        found: Fact = Fact.objects.get(pk=fact_id)
    except Fact.DoesNotExist:
        raise UnknownFact(f"{fact_id}: no such fact", "see `manage.py knowledge history <entity>`") from None
    return found


def facts_of(
    entity_id: str,
    *,
    entity_type: str | None = None,
    predicate: str | None = None,
    as_of: datetime | None = None,
    known_at: datetime | None = None,
) -> list[Fact]:
    """Return the facts about an entity that hold at `as_of`, by what was known at `known_at` (None: now). One query."""
    found = Fact.objects.held(as_of, known_at).filter(**_named(entity_id, entity_type, predicate))
    return list(found.order_by("entity_type", "predicate", "valid_from", "fact_id"))


def history_of(
    entity_id: str, *, entity_type: str | None = None, predicate: str | None = None, limit: int = 100
) -> list[Fact]:
    """Return all that was ever recorded about an entity, retracted facts too, newest first. One query."""
    found = Fact.objects.filter(**_named(entity_id, entity_type, predicate)).select_related("source_agent")
    return list(found.order_by("-valid_from", "-created_at")[:limit])


def _named(entity_id: str, entity_type: str | None, predicate: str | None) -> dict[str, str]:
    given = {"entity_id": entity_id, "entity_type": entity_type, "predicate": predicate}
    return {name: value for name, value in given.items() if value is not None}
