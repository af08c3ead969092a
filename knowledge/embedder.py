"""Give vectors to the facts that wait for one: which do, in what portions, and who may at a time.

Which texts: the view knowledge.sentences. A fact waits while its model's version has no vector of it. Each portion is
stored by one statement, so stopping anywhere leaves vectors that work, and the next run goes on with the rest.
One embedder per model holds an advisory lock, so that two do not compute the same; where the lock is lost (its
connection broke), two computing the same would still store each vector once.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from os import PRIO_PROCESS, setpriority
from typing import Any
from uuid import UUID

from django.db import OperationalError, connection
from django.db.models import Q
from django.utils import timezone

from knowledge.errors import Contended, TextRefused, UnknownModel
from knowledge.models import EmbeddingModel
from knowledge.providers import provider_of
from knowledge.vector_index import ensure_index
from pg.queries import Queries
from pg.uuid7 import uuid7_floor

QUERIES = Queries("knowledge")
FROM_THE_START = UUID(int=0)
PORTION_FACTS = 64
READ_FACTS = 1_024  # at a time: finding those that wait costs more than reading them
LATE = timedelta(hours=1)
LOCK_WAIT_SECONDS = 30
LOWEST_PRIORITY = 19
MAX_REFUSED_AT_FIRST = 3

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Portion:
    """What one portion did. `refused`: texts that the provider cannot embed; they wait on. `after`: the last fact."""

    added: int
    refused: int
    after: UUID


@dataclass(frozen=True)
class Done:
    """`is_finished`: nothing waited any more."""

    added: int
    refused: int
    is_finished: bool


@dataclass(frozen=True)
class Waiting:
    fact_id: UUID
    sentence: str


def embed_waiting(
    model: EmbeddingModel, after: UUID = FROM_THE_START, limit: int | None = None
) -> Generator[Portion, None, None]:
    """Embed the facts that wait and were made after fact `after`, oldest first, at most `limit` (None: all).

    Yields after each portion, which is stored by then. Raises what Provider.embed raises, and UnknownModel for a
    retired model. Call it under `embedder_lock`.
    """
    if model.state == EmbeddingModel.State.RETIRED:
        raise UnknownModel(f"{model} is retired", f"bring it back with manage.py knowledge reembed {model}")
    with low_priority() as compute:
        left = sys.maxsize if limit is None else limit
        while left > 0 and (waiting := read_waiting(model, after, min(READ_FACTS, left))):
            for begin in range(0, len(waiting), PORTION_FACTS):
                yield embed_portion(model, waiting[begin : begin + PORTION_FACTS], compute)
            after, left = waiting[-1].fact_id, left - len(waiting)


def embed_for(model: EmbeddingModel, after: UUID, seconds: float) -> Done:
    """Embed what waits after fact `after` for `seconds` at most; a portion that is begun is finished."""
    ends_at = time.monotonic() + seconds
    return embed_until(model, after, lambda portion: time.monotonic() >= ends_at)


def embed_all(model: EmbeddingModel, limit: int | None, show: Callable[[Portion], None]) -> Done:
    """Embed all that waits, or `limit` facts; `show` is called after each portion."""
    return embed_until(model, FROM_THE_START, show, limit)


def embed_until(
    model: EmbeddingModel, after: UUID, is_enough: Callable[[Portion], bool | None], limit: int | None = None
) -> Done:
    """Embed what waits until `is_enough` says so after a portion; at the end see to the index.

    Call it under `embedder_lock`; raises like `embed_waiting`.
    """
    begun_at, added, refused = timezone.now(), 0, 0
    with closing(embed_waiting(model, after, limit)) as portions:
        for portion in portions:
            added, refused = added + portion.added, refused + portion.refused
            if is_enough(portion):
                return Done(added, refused, is_finished=False)
    if limit is not None and added + refused >= limit:
        return Done(added, refused, is_finished=False)
    note_caught_up(model, begun_at)
    ensure_index(model)
    return Done(added, refused, is_finished=True)


def read_waiting(model: EmbeddingModel, after: UUID, limit: int) -> list[Waiting]:
    rows = QUERIES.run("waiting_facts", {**named(model), "after": after, "limit": limit})
    return [Waiting(row["fact_id"], row["sentence"]) for row in rows]


def embed_portion(model: EmbeddingModel, waiting: list[Waiting], compute: Callable[..., Any]) -> Portion:
    """Embed and store one portion, each text once. Raises where the provider refuses all of its texts."""
    texts = sorted({fact.sentence for fact in waiting})
    found = known_vectors(model, texts)
    unknown = [text for text in texts if text not in found]
    made = embed_one_by_one_if_need_be(provider_of(model).embed, unknown, compute)
    found |= {text: as_text(vector) for text, vector in made.items()}
    ready = [fact for fact in waiting if fact.sentence in found]
    added = store(model, ready, found)
    return Portion(added, len(waiting) - len(ready), waiting[-1].fact_id)


def embed_one_by_one_if_need_be(
    embed: Callable[[list[str]], list[list[float]]], texts: list[str], compute: Callable[..., Any]
) -> dict[str, list[float]]:
    """Return the vectors of the texts, without those that the provider refuses one by one. Raises TextRefused where
    it refuses the first few alike."""
    try:
        return dict(zip(texts, compute(embed, texts), strict=True))
    except TextRefused:
        found: dict[str, list[float]] = {}
    for number, text in enumerate(texts, start=1):
        try:
            found[text] = compute(embed, [text])[0]
        except TextRefused as error:
            if number == MAX_REFUSED_AT_FIRST and not found:
                raise  # it is not the texts
            logger.warning("%s; left without a vector: %.80r", error, text)
    return found


def known_vectors(model: EmbeddingModel, texts: list[str]) -> dict[str, str]:
    rows = QUERIES.run("known_vectors", {**named(model), "sentences": texts})
    return {row["sentence"]: row["vector"] for row in rows}


def store(model: EmbeddingModel, facts: list[Waiting], vectors: dict[str, str]) -> int:
    """Store the vectors of these facts in one statement; return how many were new."""
    parameters = {
        "fact_ids": [fact.fact_id for fact in facts],
        "sentences": [fact.sentence for fact in facts],
        "vectors": [vectors[fact.sentence] for fact in facts],
    }
    added: int = QUERIES.run("add_embeddings", {**named(model), **parameters})[0]["added"]
    return added


def as_text(vector: list[float]) -> str:
    """Return a vector as PostgreSQL reads it; six digits are more than a half-precision number keeps."""
    return f"[{','.join(f'{value:.6g}' for value in vector)}]"


def named(model: EmbeddingModel) -> dict[str, str]:
    return {"model": model.model_name, "version": model.model_version}


def read_oldest_waiting(model: EmbeddingModel) -> datetime | None:
    """Return when the oldest fact that waits was recorded; None where none waits."""
    parameters = {**named(model), "after": where_to_look(model), "limit": 1}
    rows = QUERIES.run("waiting_facts", parameters)
    return rows[0]["created_at"] if rows else None


def count_waiting(model: EmbeddingModel, at_most: int) -> int:
    """Return how many facts wait, or `at_most` where it is more."""
    parameters = {**named(model), "after": where_to_look(model), "limit": at_most}
    waiting: int = QUERIES.run("count_waiting", parameters)[0]["waiting"]
    return waiting


def where_to_look(model: EmbeddingModel) -> UUID:
    """Return the fact after which others may wait, so that nobody looks through millions of facts for the few new ones.

    Ids begin with the time they were made; a transaction may be late by up to LATE, or its clock be off. What is later
    still, or has an id of another kind, is found by the next look at everything (`embed_everything_job`).
    """
    return uuid7_floor(model.caught_up_at - LATE) if model.caught_up_at else FROM_THE_START


def note_caught_up(model: EmbeddingModel, begun_at: datetime) -> None:
    """Note that a look at all that may wait, begun at `begun_at`, came to its end.

    Unless the version changed meanwhile, or another process noted a later time.
    """
    same = EmbeddingModel.objects.filter(pk=model.pk, model_version=model.model_version)
    same.filter(Q(caught_up_at=None) | Q(caught_up_at__lt=begun_at)).update(caught_up_at=begun_at)


@contextmanager
def low_priority() -> Iterator[Callable[..., Any]]:
    """Yield a function that calls another one on a thread of the lowest priority, and waits for it.

    So agents' work on the same processor comes first, and this process keeps its own priority.
    """
    with ThreadPoolExecutor(1, "embedder", initializer=lower_priority) as threads:
        yield lambda function, *arguments: threads.submit(function, *arguments).result()


def lower_priority() -> None:
    if sys.platform == "linux":  # elsewhere this would lower the whole process
        setpriority(PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)


@contextmanager
def embedder_lock(model: EmbeddingModel, wait: bool = False) -> Iterator[bool]:
    """Hold the model's lock on this session; yield False where another has it.

    `wait`: wait LOCK_WAIT_SECONDS for it (a job's portion is shorter), then raise Contended.
    """
    is_ours = wait_for_lock(model) if wait else QUERIES.run("try_embedder_lock", named(model))[0]["is_ours"]
    try:
        yield is_ours
    finally:
        if is_ours and connection.connection is not None:  # a broken connection has given it back
            QUERIES.run("release_embedder_lock", named(model))


def wait_for_lock(model: EmbeddingModel) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = '{LOCK_WAIT_SECONDS}s'")
        try:
            QUERIES.run("wait_for_embedder_lock", named(model))
        except OperationalError as error:
            raise Contended(
                f"{model}: another process is making its vectors", "let it finish: manage.py knowledge models"
            ) from error
        finally:
            cursor.execute("RESET lock_timeout")
    return True
