"""How much is known. Estimates of the planner: no big table is counted."""

from dataclasses import dataclass
from typing import Any

from knowledge.embedder import count_waiting
from knowledge.errors import ProviderUnavailable
from knowledge.models import EmbeddingModel
from knowledge.providers import why_unavailable
from knowledge.vector_index import index_states
from pg.queries import Queries

QUERIES = Queries("knowledge")
MAX_WAITING_COUNTED = 10_000


def estimate_sizes() -> dict[str, int]:
    """Return estimated rows and exact bytes of facts and embeddings. Rows are as of the last ANALYZE or VACUUM, at
    least what was inserted since then."""
    return dict(QUERIES.run("sizes")[0])


def list_models() -> list[dict[str, Any]]:
    """Return each embedding model with its partition (None: missing) and its estimated rows. Two queries."""
    states = index_states()
    return [
        {
            "model": model.model_name,
            "version": model.model_version,
            "dimensions": model.dimensions,
            "is_default": model.is_default,
            "partition": states[model.model_name].partition,
            "embeddings": states[model.model_name].vectors,
        }
        for model in EmbeddingModel.objects.order_by("model_name")
    ]


@dataclass(frozen=True)
class Progress:
    """How far a model is. `waiting` is at most MAX_WAITING_COUNTED; `problem` says why no vectors can be made."""

    vectors: int  # estimated
    waiting: int
    index: str
    problem: ProviderUnavailable | None

    @property
    def waiting_text(self) -> str:
        return f"{self.waiting:,}" + ("+" if self.waiting == MAX_WAITING_COUNTED else "")


def progress_of(model: EmbeddingModel) -> Progress:
    """Return how far a model is. Two queries; the second looks through all facts until the first load is done.

    A paused or retired model lets nothing wait.
    """
    state = index_states()[model.model_name]
    is_active = model.state == EmbeddingModel.State.ACTIVE
    return Progress(
        state.vectors,
        count_waiting(model, MAX_WAITING_COUNTED) if is_active else 0,
        str(state) if state.partition else "no partition",
        why_unavailable(model),
    )
