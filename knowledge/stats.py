"""How much is known. Estimates of the planner: nothing is counted, however big the tables are."""

from typing import Any

from knowledge.models import EmbeddingModel
from pg.queries import Queries

QUERIES = Queries("knowledge")


def estimate_sizes() -> dict[str, int]:
    """Return estimated rows and exact bytes of facts and embeddings. Rows are as of the last ANALYZE or VACUUM, at
    least what was inserted since then."""
    return dict(QUERIES.run("sizes")[0])


def list_models() -> list[dict[str, Any]]:
    """Return each embedding model with its partition (None: missing) and its estimated rows."""
    rows = {row["model_name"]: row for row in QUERIES.run("model_partitions")}
    return [
        {
            "model": model.model_name,
            "version": model.model_version,
            "dimensions": model.dimensions,
            "is_default": model.is_default,
            **{name: rows[model.model_name][name] for name in ("partition", "embeddings")},
        }
        for model in EmbeddingModel.objects.order_by("model_name")
    ]
