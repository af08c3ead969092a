"""Embedding models: which there are, which is the default, and the partitions of their vectors."""

from django.db import DatabaseError, transaction

from knowledge.errors import BadClaim, Contended, UnknownModel
from knowledge.models import EmbeddingModel
from knowledge.providers import provider_names
from partitions.errors import Busy
from partitions.locks import execute_patiently
from pg.queries import Queries

QUERIES = Queries("knowledge")
State = EmbeddingModel.State


def find_model(name: str | None = None) -> EmbeddingModel:
    """Return the model of that name, or the default (None). Raises UnknownModel."""
    wanted = {"is_default": True} if name is None else {"model_name": name}
    found = EmbeddingModel.objects.filter(**wanted).first()
    if found is None:
        what = "no model is the default" if name is None else f"{name}: no such model"
        raise UnknownModel(what, "see manage.py knowledge models; add models in the admin, under Knowledge")
    return found


def active_models() -> list[EmbeddingModel]:
    """Return the models by which new facts get vectors, the default first."""
    return list(EmbeddingModel.objects.filter(state=State.ACTIVE).order_by("-is_default", "model_name"))


def save_model(model: EmbeddingModel) -> EmbeddingModel:
    """Save a model with its partition in one transaction; return it. Safe to repeat.

    A new default takes the place of the old one. Raises BadClaim for an unknown provider, and where its partition has
    other dimensions.
    """
    if model.provider not in provider_names():
        raise BadClaim(
            f"provider={model.provider!r}: there is none", f"known are {', '.join(provider_names())}"
        )
    try:
        with transaction.atomic():
            if model.is_default:
                EmbeddingModel.objects.filter(is_default=True).exclude(pk=model.pk).update(is_default=False)
            if not EmbeddingModel.objects.filter(pk=model.pk, model_version=model.model_version).exists():
                model.caught_up_at = None  # all facts wait for vectors of the new version
            model.save()
            if model.state != State.RETIRED:
                QUERIES.run("create_partition", {"model": model.model_name, "dimensions": model.dimensions})
    except DatabaseError as error:
        raise BadClaim(
            str(error).splitlines()[0], "give a model with other dimensions a name of its own"
        ) from error
    return model


def activate_model(model: EmbeddingModel, version: str | None = None) -> EmbeddingModel:
    """Let new facts get vectors by this model, a retired one too; another `version` makes all facts wait anew."""
    model.state = State.ACTIVE
    model.model_version = version or model.model_version
    return save_model(model)


def make_default(model: EmbeddingModel) -> EmbeddingModel:
    """Let searches use this model from the next one on."""
    model.is_default = True
    return save_model(model)


def retire_model(model: EmbeddingModel) -> None:
    """Remove a model's vectors by dropping its partition; its row stays. Safe to repeat, and after an interruption.

    Raises UnknownModel for the default, Contended (try again) where others hold the tables for long. Takes ACCESS
    EXCLUSIVE locks on facts and embeddings for a moment, after at most a few seconds' wait each time.
    """
    check_may_retire(model)
    model.state = State.RETIRED
    model.caught_up_at = None
    model.save(update_fields=["state", "caught_up_at"])
    partition = partition_of(model)
    if partition is None:
        return
    try:
        execute_patiently(f"DROP TABLE {partition}")
    except Busy as error:
        raise Contended(
            f"{partition}: others use it: {error}".strip(), "run the same command again"
        ) from error


def check_may_retire(model: EmbeddingModel) -> None:
    if model.is_default:
        raise UnknownModel(
            f"{model}: searches use it, so it cannot be retired",
            "make another model the default first: manage.py knowledge reembed MODEL",
        )


def partition_of(model: EmbeddingModel) -> str | None:
    """Return the quoted name of the model's partition; None where it has none."""
    rows = {row["model_name"]: row["partition"] for row in QUERIES.run("model_partitions")}
    name: str | None = rows.get(model.model_name)
    return name
