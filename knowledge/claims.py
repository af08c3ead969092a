"""What somebody asserts, checked before it meets the database."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.utils import timezone

from knowledge.errors import BadClaim

MAX_LENGTHS = {"entity_type": 100, "entity_id": 255, "predicate": 255, "object_type": 50}
MAX_VALUE_CHARACTERS = 262_144  # as in the database: constraint valid_object_size


@dataclass(frozen=True)
class Claim:
    """One fact to assert. Raises BadClaim for what the database would refuse.

    `value` is any JSON but null; a text is kept as `{"text_content": value}` (guide 13.1). `many`: other values of
    this predicate may hold beside it. `valid_from` None: from the moment it is stored. `confidence` 0 to 1, None: not
    said. `source_agent_id` None: no agent of ours said it.
    """

    entity_type: str
    entity_id: str
    predicate: str
    value: Any
    object_type: str = ""
    many: bool = False
    source_agent_id: UUID | None = None
    confidence: Decimal | float | None = None
    evidence: dict[str, Any] = field(default_factory=dict)
    valid_from: datetime | None = None

    def __post_init__(self) -> None:
        for name, limit in MAX_LENGTHS.items():
            check_text(name, getattr(self, name), limit, may_be_empty=name == "object_type")
        check_json("value", self.value)
        if self.value is None:
            raise BadClaim("value: must not be null", "retract the fact that no longer holds")
        if not isinstance(self.evidence, dict):
            raise BadClaim(f"evidence={self.evidence!r}: must be a JSON object")
        check_json("evidence", self.evidence)
        check_confidence(self.confidence)
        if self.valid_from is not None and timezone.is_naive(self.valid_from):
            raise BadClaim(f"valid_from={self.valid_from}: has no time zone", "write 2026-03-01T12:00:00Z")

    @property
    def key(self) -> tuple[str, ...]:
        """What it replaces: at most one open value of it, or one of each."""
        base = (self.entity_type, self.entity_id, self.predicate)
        return (*base, json.dumps(self.value, sort_keys=True)) if self.many else base

    def as_row(self, fact_id: UUID) -> dict[str, Any]:
        """Return the row as the assert_facts query reads it, in JSON terms."""
        is_text = isinstance(self.value, str)
        return {
            "fact_id": str(fact_id),
            "entity_type": self.entity_type,
            "entity_id": self.entity_id,
            "predicate": self.predicate,
            "object_value": {"text_content": self.value} if is_text else self.value,
            "object_type": self.object_type or type_of(self.value),
            "is_multivalued": self.many,
            "source_agent_id": str(self.source_agent_id) if self.source_agent_id else None,
            "confidence_score": None if self.confidence is None else str(self.confidence),
            "evidence": self.evidence,
            "valid_from": self.valid_from.isoformat() if self.valid_from else None,
        }


def newest_of_each_key(claims: Iterable[Claim]) -> dict[tuple[str, ...], Claim]:
    """Return the claims by key; of several with one key the last."""
    return {claim.key: claim for claim in claims}


def type_of(value: Any) -> str:
    """Return the object_type of a value: text, boolean, number, array or object."""
    kinds = ((str, "text"), (bool, "boolean"), (int | float, "number"), (list | tuple, "array"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "object")


def check_text(name: str, text: Any, limit: int, may_be_empty: bool) -> None:
    if not isinstance(text, str):
        raise BadClaim(f"{name}={text!r}: must be a text")
    if len(text) > limit or not (text or may_be_empty):
        raise BadClaim(f"{name}={text[:40]!r}: must have 1 to {limit} characters, has {len(text)}")
    if "\0" in text:
        raise BadClaim(f"{name}={text[:40]!r}: must not contain NUL")


def check_json(name: str, value: Any) -> None:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError) as error:  # half a surrogate pair is a ValueError too
        raise BadClaim(f"{name}: not JSON: {error}") from error
    if len(text) > MAX_VALUE_CHARACTERS:
        raise BadClaim(
            f"{name}: has {len(text)} characters of JSON, the limit is {MAX_VALUE_CHARACTERS}",
            "keep the bulk elsewhere and the reference here",
        )
    if "\\u0000" in text:
        raise BadClaim(f"{name}: must not contain NUL")


def check_confidence(confidence: Any) -> None:
    is_number = isinstance(confidence, int | float | Decimal) and not isinstance(confidence, bool)
    if confidence is not None and not (is_number and 0 <= confidence <= 1):
        raise BadClaim(f"confidence={confidence!r}: must be a number from 0 to 1")
