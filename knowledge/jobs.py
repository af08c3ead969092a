"""Celery entry points of the knowledge room."""

import logging
from uuid import UUID

from celery import shared_task

from knowledge.embedder import FROM_THE_START, embed_for, embedder_lock, where_to_look
from knowledge.embeddings import active_models
from knowledge.errors import KnowledgeError
from knowledge.models import EmbeddingModel

SLICE_SECONDS = 8.0  # of the ten between two runs; a worker that embeds takes no task meanwhile
EVERYTHING_SECONDS = 60.0

logger = logging.getLogger(__name__)


@shared_task(name="knowledge.embed")
def embed_job() -> dict[str, str]:
    """Give vectors to new facts by each active model, for a few seconds.

    Safe twice, late or beside itself: one embedder per model works, the others leave at once; what is not done in time
    waits for the next run.
    """
    return {model.pk: work_on(model, where_to_look(model), SLICE_SECONDS) for model in active_models()}


@shared_task(name="knowledge.embed_everything")
def embed_everything_job() -> dict[str, str]:
    """Look at all facts, for those that the short looks cannot have seen. Safe as `embed_job` is."""
    return {model.pk: work_on(model, FROM_THE_START, EVERYTHING_SECONDS) for model in active_models()}


def work_on(model: EmbeddingModel, after: UUID, seconds: float) -> str:
    """Embed for a while and say what came of it; what people must mend is logged, and doctor repeats it."""
    try:
        with embedder_lock(model) as is_ours:
            if not is_ours:
                return "another process is at it"
            done = embed_for(model, after, seconds)
    except KnowledgeError as error:
        logger.warning("%s: no vectors made: %s. HINT: %s", model, error, error.hint)
        return str(error)
    return f"{done.added} added" + ("" if done.is_finished else ", more wait")
