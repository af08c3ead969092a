"""A provider that counts, for tests that are not about meaning."""

import hashlib

import pytest

from knowledge import providers
from knowledge.embeddings import save_model
from knowledge.errors import TextRefused
from knowledge.models import EmbeddingModel
from knowledge.providers.base import Provider


class CountingProvider(Provider):
    """Vectors of three numbers made of the text's digest. `problem` is raised instead; a text with `refused` in it
    is refused."""

    def __init__(self, model_name, dimensions):
        super().__init__(model_name, dimensions)
        self.calls = []
        self.problem = None

    def check(self):
        if self.problem:
            raise self.problem

    def compute(self, texts):
        self.check()
        self.calls.append(list(texts))
        if any("refused" in text for text in texts):
            raise TextRefused("that text")
        return [[1.0 + byte for byte in hashlib.sha256(text.encode()).digest()[:3]] for text in texts]

    @property
    def texts(self):
        return sorted(text for call in self.calls for text in call)


@pytest.fixture
def counting(monkeypatch):
    """Register the provider `counting`; forget it afterwards."""
    monkeypatch.setattr(providers, "_makers", dict(providers._makers))
    providers.register_provider("counting", CountingProvider)
    yield
    providers._make.cache_clear()


@pytest.fixture
def model(counting, db):
    """The default model of the test, by a counting provider."""
    return save_model(
        EmbeddingModel(
            model_name="three",
            model_version="1",
            dimensions=3,
            provider="counting",
            is_default=True,
            state="active",
        )
    )


@pytest.fixture
def provider(model):
    return providers.provider_of(model)
