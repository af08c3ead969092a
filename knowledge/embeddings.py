"""Embedding models and their partitions."""

from django.db import DatabaseError, transaction

from knowledge.errors import BadClaim
from knowledge.models import EmbeddingModel
from pg.queries import Queries

QUERIES = Queries("knowledge")


def save_model(model: EmbeddingModel) -> EmbeddingModel:
    """Save a model with its partition and index in one transaction; return it. Safe to repeat.

    A new default takes the place of the old one. Raises BadClaim where its partition has other dimensions.
    """
    try:
        with transaction.atomic():
            if model.is_default:
                EmbeddingModel.objects.filter(is_default=True).exclude(pk=model.pk).update(is_default=False)
            model.save()
            QUERIES.run("create_partition", {"model": model.model_name, "dimensions": model.dimensions})
    except DatabaseError as error:
        raise BadClaim(
            str(error).splitlines()[0], "give a model with other dimensions a name of its own"
        ) from error
    return model
