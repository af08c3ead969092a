"""What `doctor` looks at in knowledge."""

from collections.abc import Iterator

from knowledge.stats import list_models
from monitoring.registry import Finding, register_check
from pg.queries import Queries

QUERIES = Queries("knowledge")


def register() -> None:
    register_check("knowledge.extension", look_at_extension)
    register_check("knowledge.indexes", look_at_indexes)
    register_check("knowledge.models", look_at_models)


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
    for model in models:
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
