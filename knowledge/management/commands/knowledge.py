"""manage.py knowledge: search, ingest, history, embed, reembed, models, retire, stats."""

import sys
import time
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TextIO

from django.utils import timezone

from knowledge import hybrid
from knowledge.embedder import Portion, count_waiting, embed_all, embedder_lock
from knowledge.embeddings import (
    activate_model,
    check_may_retire,
    find_model,
    make_default,
    partition_of,
    retire_model,
)
from knowledge.errors import BadInput
from knowledge.facts import facts_of, history_of
from knowledge.hybrid import Mode
from knowledge.ingest import ingest_lines
from knowledge.models import EmbeddingModel, Fact
from knowledge.providers import check_available
from knowledge.stats import MAX_WAITING_COUNTED, estimate_sizes, list_models, progress_of
from knowledge.vector_index import index_states
from operators.command import Answer, OperatorCommand

SHOWN_CHARACTERS = 100
PROGRESS_SECONDS = 2.0


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
        parser = self.add_verb("search", search, "find facts by their meaning and their words, best first")
        parser.add_argument("query", nargs="+", help='a question or words; "a phrase", -without, or')
        parser.add_argument(
            "--mode",
            choices=["hybrid", "semantic", "text"],
            default="hybrid",
            help="by both (default; by words where there are no vectors), by meaning, by words",
        )
        parser.add_argument(
            "--semantic", action="store_const", const="semantic", dest="mode", help="as --mode semantic"
        )
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
        self.add_model_verbs()
        self.add_verb("stats", stats, "show how much there is, estimated")

    def add_model_verbs(self) -> None:
        parser = self.add_verb("embed", embed, "give vectors to the facts that wait for one, now")
        parser.add_argument("--model", dest="model_name", help="default: the default model")
        parser.add_argument("--limit", type=positive, help="at most so many facts")
        parser.add_argument("--dry-run", action="store_true", help="only say how many wait")
        parser = self.add_verb("reembed", reembed, "fill a model with vectors, then let searches use it")
        parser.add_argument("model_name", nargs="?", metavar="model", help="default: the default model")
        parser.add_argument("--version", dest="version", help="the model's new version: all facts wait anew")
        parser.add_argument("--dry-run", action="store_true", help="only print the steps")
        self.add_verb("models", models, "show the models, their vectors, and what waits")
        parser = self.add_verb("retire", retire, "remove the vectors of a model that nobody uses")
        parser.add_argument("model_name", metavar="model")
        parser.add_argument("--dry-run", action="store_true", help="only print the step")


def positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise ArgumentTypeError(f"{text!r}: must be 1 or more")
    return int(text)


def add_times(parser: ArgumentParser) -> None:
    parser.add_argument("--as-of", type=aware_time, help="what held at this time")
    parser.add_argument("--known-at", type=aware_time, help="what was known at this time")


def search(query: list[str], limit: int, mode: Mode, **options: Any) -> Answer:
    chosen = {name: options[name] for name in ("entity_type", "as_of", "known_at")}
    found = hybrid.search(" ".join(query), limit, mode=mode, **chosen)
    items = [
        {
            "score": hit.score,
            "similarity": hit.similarity,
            "entity_type": hit.entity_type,
            "entity_id": hit.entity_id,
            "predicate": hit.predicate,
            "more": hit.more,
            "source_agent": hit.source_agent,
            "evidence": hit.evidence,
            "text": shorten(hit.text),
        }
        for hit in found.hits
    ]
    return Answer(items=items, counts={"found": len(items)}, warnings=found.warnings)


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


def embed(model_name: str | None, limit: int | None, dry_run: bool, **_: Any) -> Answer:
    model = find_model(model_name)
    if dry_run:
        waiting = count_waiting(model, limit or MAX_WAITING_COUNTED)
        return Answer(counts={"waiting": waiting})
    return made(model, limit)


def made(model: EmbeddingModel, limit: int | None = None) -> Answer:
    """Embed with progress on stderr; an interruption (Ctrl-C) keeps what is done."""
    with embedder_lock(model, wait=True):
        report = Report(model)
        try:
            done = embed_all(model, limit, report.show)
        except KeyboardInterrupt:
            return Answer(counts=report.counts(), warnings=["stopped; run it again to go on"], ok=False)
    state = index_states()[model.model_name]
    item = {"model": model.model_name, "finished": done.is_finished, "index": str(state)}
    warnings = [f"{done.refused} texts were refused by the provider"] if done.refused else []
    return Answer(items=[item], counts=report.counts(), warnings=warnings)


class Report:
    """Counts portions and says every few seconds how far it is."""

    def __init__(self, model: EmbeddingModel) -> None:
        self.waiting = count_waiting(model, MAX_WAITING_COUNTED)
        self.added = self.refused = 0
        self.begun = self.shown = time.monotonic()

    def show(self, portion: Portion) -> None:
        self.added, self.refused = self.added + portion.added, self.refused + portion.refused
        if time.monotonic() - self.shown >= PROGRESS_SECONDS:
            self.shown = time.monotonic()
            of = f"{self.waiting:,}" + ("+" if self.waiting == MAX_WAITING_COUNTED else "")
            sys.stderr.write(f"{self.added:,} of {of} facts, {self.per_second()} per second\n")

    def per_second(self) -> int:
        return round(self.added / max(time.monotonic() - self.begun, 0.001))

    def counts(self) -> dict[str, int]:
        return {"added": self.added, "refused": self.refused, "per_second": self.per_second()}


def reembed(model_name: str | None, version: str | None, dry_run: bool, **_: Any) -> Answer:
    model = find_model(model_name)
    if dry_run:
        return Answer(steps=reembed_steps(model, version))
    check_available(model)
    answer = made(activate_model(model, version))
    if answer.ok and answer.items[0]["finished"] and not model.is_default:
        make_default(find_model(model.pk))
        answer.items[0]["is_default"] = True
    return answer


def reembed_steps(model: EmbeddingModel, version: str | None) -> list[dict[str, str]]:
    changed = f"version {version}" if version else f"version {model.model_version}"
    steps = [
        {"action": "embed", "object": model.pk, "why": f"each fact gets a vector of {changed}"},
        {"action": "index", "object": model.pk, "why": "once all have one, unless they are few"},
    ]
    if not model.is_default:
        steps.append({"action": "default", "object": model.pk, "why": "searches use it from then on"})
    return steps


def models(**_: Any) -> Answer:
    return Answer(items=[model_row(model) for model in EmbeddingModel.objects.order_by("model_name")])


def model_row(model: EmbeddingModel) -> dict[str, Any]:
    progress = progress_of(model)
    return {
        "model": model.model_name,
        "version": model.model_version,
        "provider": model.provider,
        "dimensions": model.dimensions,
        "default": "default" if model.is_default else "",
        "state": model.state,
        "vectors": progress.vectors,
        "waiting": progress.waiting_text,
        "index": progress.index,
        "problem": f"{progress.problem}. {progress.problem.hint}" if progress.problem else "",
    }


def retire(model_name: str, dry_run: bool, **_: Any) -> Answer:
    model = find_model(model_name)
    check_may_retire(model)
    partition = partition_of(model)
    steps = [{"action": "drop", "object": partition, "why": f"all vectors of {model}"}] if partition else []
    if not dry_run:
        with embedder_lock(model, wait=True):
            retire_model(model)
    return Answer(steps=steps)


def stats(**_: Any) -> Answer:
    return Answer(items=list_models(), counts=estimate_sizes())


def shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 3]}..."
