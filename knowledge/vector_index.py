"""The HNSW index of a model: built when the first load is done, maintained by PostgreSQL from then on.

Loading a table that has the index already is several times slower, and a table that small needs none: up to
EXACT_ROWS vectors are compared one by one.
"""

import logging
from dataclasses import dataclass

from django.db import connection

from knowledge.models import EmbeddingModel
from pg.errors import Refused
from pg.queries import Queries

QUERIES = Queries("knowledge")
# comparing so many vectors takes less than the index needs to find the few among them that pass a filter
EXACT_ROWS = 2_000
BUILD_MEMORY = "256MB"  # an index that does not fit is built many times slower

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexState:
    """`partition` None: the model has no table. `index` None: not begun. `built_percent` None: nobody builds it."""

    partition: str | None
    vectors: int  # estimated
    index: str | None
    is_ready: bool
    built_percent: int | None

    def __str__(self) -> str:
        if self.built_percent is not None:
            return f"building, {self.built_percent} %"
        if self.index is None:
            return "none yet: vectors are compared one by one"
        return "ready" if self.is_ready else "broken: the next run builds it anew"


def index_states() -> dict[str, IndexState]:
    """Return the state of each model's index by the model's name. One query, of the catalog."""
    return {
        row["model_name"]: IndexState(
            row["partition"],
            row["embeddings"] or 0,
            row["index_name"],
            row["is_indexed"],
            row["built_percent"],
        )
        for row in QUERIES.run("model_partitions")
    }


def ensure_index(model: EmbeddingModel) -> bool:
    """Build the index if the model has none and enough vectors for one; return whether it was built.

    Readers and writers go on. The caller holds the embedder's lock, so nobody else builds it; what a killed build left
    behind is removed first. Raises Refused inside a transaction.
    """
    state = index_states()[model.model_name]
    if state.is_ready or state.partition is None or not has_enough(state.partition):
        return False
    if connection.in_atomic_block:
        raise Refused("an index cannot be built concurrently inside a transaction")
    if state.index:
        execute(f"DROP INDEX CONCURRENTLY {state.index}")
    execute(f"SET maintenance_work_mem = '{BUILD_MEMORY}'")
    try:
        execute(create_statement(state.partition, model.dimensions))
    finally:
        execute("RESET maintenance_work_mem")
    execute(f"ANALYZE {state.partition}")
    logger.info("%s: vector index built", model)
    return True


def has_enough(partition: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT count(*) > {EXACT_ROWS} FROM (SELECT FROM {partition} LIMIT {EXACT_ROWS + 1}) v"
        )
        return bool(cursor.fetchone()[0])


def create_statement(partition: str, dimensions: int) -> str:
    name = connection.ops.quote_name(partition.partition(".")[2].strip('"') + "_hnsw")
    return (
        f"CREATE INDEX CONCURRENTLY {name} ON {partition}"
        f" USING hnsw ((embedding_vector::halfvec({dimensions})) halfvec_cosine_ops)"
        " WITH (m = 16, ef_construction = 64)"
    )


def execute(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)
