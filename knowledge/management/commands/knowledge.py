"""manage.py knowledge: search, ingest, history, stats."""

import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TextIO

from django.utils import timezone

from knowledge.errors import BadInput
from knowledge.facts import facts_of, history_of
from knowledge.ingest import ingest_lines
from knowledge.models import Fact
from knowledge.search import search_text
from knowledge.stats import estimate_sizes, list_models
from operators.command import Answer, OperatorCommand

SHOWN_CHARACTERS = 100


def aware_time(text: str) -> datetime:
    """Read an ISO 8601 time; without a zone it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r}: not an ISO 8601 time such as 2026-03-01T12:00:00Z") from error
    return moment if timezone.is_aware(moment) else moment.replace(tzinfo=timezone.get_default_timezone())


class Command(OperatorCommand):
    help = "Search the fleet's facts, bring facts in, and show what was known when."

    def add_verbs(self) -> None:
        parser = self.add_verb("search", search, "find facts by their words, best first")
        parser.add_argument("query", nargs="+", help='words; "a phrase", -without, or')
        parser.add_argument("--limit", type=int, default=10)
        parser.add_argument("--type", dest="entity_type", help="only entities of this type")
        add_times(parser)
        parser = self.add_verb("ingest", ingest, "assert facts from JSON lines")
        parser.add_argument("file", nargs="?", default="-", help="- or nothing: standard input")
        parser.add_argument(
            "--batch", dest="batch_lines", type=int, default=1_000, help="lines per transaction"
        )
        parser = self.add_verb(
            "history", history, "show what was ever recorded about an entity, newest first"
        )
        parser.add_argument("entity_id")
        parser.add_argument("--type", dest="entity_type")
        parser.add_argument("--predicate")
        parser.add_argument("--limit", type=int, default=100)
        add_times(parser)
        self.add_verb("stats", stats, "show how much there is, estimated")


def add_times(parser: ArgumentParser) -> None:
    parser.add_argument("--as-of", type=aware_time, help="what held at this time")
    parser.add_argument("--known-at", type=aware_time, help="what was known at this time")


def search(query: list[str], limit: int, entity_type: str | None, **options: Any) -> Answer:
    times = {name: options[name] for name in ("as_of", "known_at")}
    hits = search_text(" ".join(query), limit, entity_type=entity_type, **times)
    items = [
        {
            "score": hit.score,
            "entity_type": hit.entity_type,
            "entity_id": hit.entity_id,
            "predicate": hit.predicate,
            "source_agent": hit.source_agent,
            "evidence": hit.evidence,
            "text": shorten(hit.text),
        }
        for hit in hits
    ]
    return Answer(items=items, counts={"found": len(items)})


def ingest(file: str, batch_lines: int, **_: Any) -> Answer:
    with opened(file) as lines:
        done = ingest_lines(lines, batch_lines)
    return Answer(counts=vars(done))


@contextmanager
def opened(file: str) -> Iterator[TextIO]:
    """Open a UTF-8 file, or standard input for "-". Raises BadInput where it cannot be read."""
    try:
        if file == "-":
            yield sys.stdin
        else:
            with open(file, encoding="utf-8") as lines:
                yield lines
    except UnicodeDecodeError as error:
        raise BadInput(f"{file}: not UTF-8 at byte {error.start}", "convert it to UTF-8") from error
    except OSError as error:
        raise BadInput(
            f"{file}: {error.strerror}", "name a file of JSON lines, or - for standard input"
        ) from error


def history(
    entity_id: str, limit: int, as_of: datetime | None, known_at: datetime | None, **named: Any
) -> Answer:
    chosen = {name: named[name] for name in ("entity_type", "predicate")}
    if as_of or known_at:
        found = facts_of(entity_id, as_of=as_of, known_at=known_at, **chosen)[:limit]
    else:
        found = history_of(entity_id, limit=limit, **chosen)
    return Answer(items=[fact_row(fact) for fact in found], counts={"facts": len(found)}, ok=bool(found))


def fact_row(fact: Fact) -> dict[str, Any]:
    return {
        "fact_id": fact.pk,
        "predicate": fact.predicate,
        "valid_from": fact.valid_from,
        "valid_until": fact.valid_until,
        "recorded_at": fact.created_at,
        "retracted_at": fact.retracted_at,
        "superseded_by": fact.superseded_by_id,
        "source_agent": fact.source_agent.agent_name if fact.source_agent else None,
        "text": shorten(fact.text),
    }


def stats(**_: Any) -> Answer:
    return Answer(items=list_models(), counts=estimate_sizes())


def shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 3]}..."
