"""Read facts from JSON lines and assert them in batches.

A line is an object: `entity_type`, `entity_id`, `predicate` and `value` are needed; `object_type`, `many`,
`confidence`, `evidence`, `valid_from` (ISO 8601 with a time zone) and `source_agent_id` may follow. Empty lines are
skipped.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID

from knowledge.claims import Claim
from knowledge.errors import BadClaim, BadInput
from knowledge.facts import assert_facts

NEEDED = ("entity_type", "entity_id", "predicate", "value")
ALLOWED = {field.name for field in fields(Claim)}
MAX_BATCH_LINES = 10_000


@dataclass(frozen=True)
class Ingested:
    lines: int = 0
    added: int = 0
    superseded: int = 0
    unchanged: int = 0


def ingest_lines(lines: Iterable[str], batch_lines: int = 1_000) -> Ingested:
    """Assert what the lines say, each batch in one transaction; return the sums. Running it again changes nothing.

    Raises BadInput, naming the line, what is wrong, and which lines are stored already: all of the batches before.
    """
    if not 1 <= batch_lines <= MAX_BATCH_LINES:
        raise BadInput(f"batch_lines={batch_lines}: must be 1 to {MAX_BATCH_LINES}")
    total, done_lines = Ingested(), 0
    for batch in batches_of(enumerate(lines, start=1), batch_lines):
        try:
            done = assert_facts([read_claim(number, line) for number, line in batch if line.strip()])
        except BadInput as error:
            raise BadInput(str(error), stored_hint(done_lines)) from error
        except BadClaim as error:
            span = f"lines {batch[0][0]} to {batch[-1][0]}"
            raise BadInput(
                f"{span}: {error}", f"{error.hint}; {stored_hint(done_lines)}".lstrip("; ")
            ) from error
        done_lines = batch[-1][0]
        total = Ingested(
            total.lines + len(done.fact_ids),
            total.added + done.added,
            total.superseded + done.superseded,
            total.unchanged + done.unchanged,
        )
    return total


def batches_of(lines: Iterator[tuple[int, str]], size: int) -> Iterator[list[tuple[int, str]]]:
    while batch := list(islice(lines, size)):
        yield batch


def stored_hint(done_lines: int) -> str:
    stored = f"lines 1 to {done_lines} are stored" if done_lines else "nothing is stored"
    return f"{stored}; correct the line and run it again, facts that are known stay as they are"


def read_claim(number: int, line: str) -> Claim:
    """Return what line `number` asserts. Raises BadInput."""
    try:
        return Claim(**read_fields(json.loads(line)))
    except BadClaim as error:
        raise BadInput(f"line {number}: {error}") from error
    except json.JSONDecodeError as error:
        raise BadInput(f"line {number}: not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"line {number}: {error}") from error


def read_fields(value: Any) -> dict[str, Any]:
    """Return Claim's arguments; raise ValueError or BadClaim."""
    if not isinstance(value, dict):
        raise BadClaim(f"a {type(value).__name__}, must be a JSON object")
    missing = [name for name in NEEDED if name not in value]
    unknown = sorted(value.keys() - ALLOWED)
    if missing or unknown:
        parts = (
            "lacks " + ", ".join(missing) if missing else "",
            "has unknown " + ", ".join(unknown) if unknown else "",
        )
        raise BadClaim(" and ".join(part for part in parts if part))
    if not isinstance(value.get("many", False), bool):
        raise BadClaim(f"many={value['many']!r}: must be true or false")
    given = dict(value)
    if given.get("valid_from") is not None:
        given["valid_from"] = read_time(given["valid_from"])
    if given.get("source_agent_id") is not None:
        given["source_agent_id"] = UUID(str(given["source_agent_id"]))
    return given


def read_time(text: Any) -> datetime:
    if not isinstance(text, str):
        raise BadClaim(f"valid_from={text!r}: must be an ISO 8601 time")
    return datetime.fromisoformat(text)
