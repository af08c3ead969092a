"""Who turns texts into vectors. A row of knowledge.models names its provider; others may register theirs."""

from collections.abc import Callable
from functools import lru_cache

from knowledge.errors import ProviderUnavailable
from knowledge.models import EmbeddingModel
from knowledge.providers.base import Provider
from knowledge.providers.local import LocalProvider
from knowledge.providers.openai import OpenAIProvider

MakeProvider = Callable[[str, int], Provider]
_makers: dict[str, MakeProvider] = {"local": LocalProvider, "openai": OpenAIProvider}


def register_provider(name: str, make: MakeProvider) -> None:
    """Let models name `name`; `make(model name, dimensions)` is called once per process and model."""
    _makers[name] = make
    _make.cache_clear()


def provider_names() -> list[str]:
    return sorted(_makers)


def provider_of(model: EmbeddingModel) -> Provider:
    """Return the model's provider, made at first use in this process. Raises ProviderUnavailable."""
    if model.provider not in _makers:
        raise ProviderUnavailable(
            f"{model.model_name}: no provider {model.provider!r}",
            f"known are {', '.join(provider_names())}; correct it in the admin",
        )
    return _make(model.provider, model.model_name, model.dimensions)


@lru_cache(maxsize=16)
def _make(provider: str, model_name: str, dimensions: int) -> Provider:
    return _makers[provider](model_name, dimensions)


def why_unavailable(model: EmbeddingModel) -> ProviderUnavailable | None:
    """Return why the model cannot make vectors on this machine, or None. Nothing is loaded or sent."""
    try:
        check_available(model)
    except ProviderUnavailable as error:
        return error
    return None


def check_available(model: EmbeddingModel) -> None:
    """Raise ProviderUnavailable where the model cannot make vectors on this machine."""
    provider_of(model).check()
