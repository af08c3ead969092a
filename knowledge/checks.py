"""What `doctor` looks at in knowledge."""

from collections.abc import Iterator
from datetime import timedelta

from django.utils import timezone

from knowledge.embedder import count_waiting, read_oldest_waiting
from knowledge.embeddings import active_models
from knowledge.models import EmbeddingModel
from knowledge.providers import why_unavailable
from knowledge.stats import MAX_WAITING_COUNTED, list_models
from monitoring.registry import Finding, register_check, register_metric
from pg.queries import Queries

QUERIES = Queries("knowledge")
State = EmbeddingModel.State
STUCK_AFTER = timedelta(minutes=10)


def register() -> None:
    register_check("knowledge.extension", look_at_extension)
    register_check("knowledge.indexes", look_at_indexes)
    register_check("knowledge.models", look_at_models)
    register_check("knowledge.vectors", look_at_vectors)
    register_metric(
        "mistersmith_knowledge_waiting_facts",
        "Facts that wait for a vector, by model; 10,000 stands for more",
        read_waiting_facts,
    )
    register_metric("mistersmith_knowledge_vectors", "Estimated vectors, by model", read_vectors)


def look_at_extension() -> Iterator[Finding]:
    """pgvector is installed, and not older than what the server has on disk."""
    found = QUERIES.run("extension")[0]
    installed, available = found["installed"], found["available"]
    if installed is None:
        hint = (
            "run manage.py migrate"
            if available
            else "install the server's pgvector package (postgresql-NN-pgvector)"
        )
        yield Finding(False, "the extension vector is not installed in this database", hint)
    elif available and installed != available:
        yield Finding(
            False, f"vector {installed}, the server has {available}", "run ALTER EXTENSION vector UPDATE"
        )
    else:
        yield Finding(True, f"vector {installed}")


def look_at_indexes() -> Iterator[Finding]:
    """No index of the schema was left half-built: PostgreSQL maintains such a one, but never reads it."""
    broken = [row["index_name"] for row in QUERIES.run("invalid_indexes")]
    for name in broken:
        yield Finding(False, f"index {name} is invalid", f"run REINDEX INDEX CONCURRENTLY {name}")
    if not broken:
        yield Finding(True, "all indexes are valid")


def look_at_models() -> Iterator[Finding]:
    """Each embedding model has its partition, and one is the default."""
    models = list_models()
    retired = set(EmbeddingModel.objects.filter(state=State.RETIRED).values_list("pk", flat=True))
    for model in models:
        if model["model"] in retired:
            continue
        where = model["partition"]
        yield Finding(
            bool(where),
            f"{model['model']}: {where or 'no partition'}",
            ""
            if where
            else f"run SELECT knowledge.create_model_partition('{model['model']}', {model['dimensions']})",
        )
    if not any(model["is_default"] for model in models):
        yield Finding(False, "no embedding model is the default", "choose one in the admin, under Knowledge")


def look_at_vectors() -> Iterator[Finding]:
    """Each active model can make vectors here, and the facts that wait are getting theirs."""
    for model in active_models():
        problem = why_unavailable(model)
        if problem:
            yield Finding(
                False,
                f"{model}: {problem}; search compares words only",
                f"{problem.hint}; or pause the model in the admin",
            )
        else:
            yield look_at_waiting(model)


def look_at_waiting(model: EmbeddingModel) -> Finding:
    """Facts may wait as long as others get vectors meanwhile."""
    oldest = read_oldest_waiting(model)
    if oldest is None:
        return Finding(True, f"{model}: no fact waits for a vector")
    newest = QUERIES.run("newest_vector", {"model": model.model_name})[0]["made_at"]
    long_ago = timezone.now() - STUCK_AFTER
    is_moving = oldest > long_ago or (newest is not None and newest > long_ago)
    waits = f"{model}: facts wait for a vector since {oldest:%Y-%m-%d %H:%M}"
    if is_moving:
        return Finding(True, waits)
    return Finding(
        False,
        f"{waits}, and none was made for {STUCK_AFTER.seconds // 60} minutes",
        "are a worker and beat up? see their logs; manage.py knowledge embed makes them now",
    )


def read_waiting_facts() -> list[tuple[dict[str, str], float]]:
    return [
        ({"model": model.pk}, float(count_waiting(model, MAX_WAITING_COUNTED))) for model in active_models()
    ]


def read_vectors() -> list[tuple[dict[str, str], float]]:
    return [({"model": row["model"]}, float(row["embeddings"])) for row in list_models() if row["partition"]]
