"""What every provider of vectors promises."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from knowledge.errors import BadVector, TextRefused

Vector = list[float]


class Provider(ABC):
    """Makes vectors with one model. Making one is cheap: nothing is loaded or sent before `check` or `embed`."""

    batch_texts = 32  # how many texts one call takes best

    def __init__(self, model_name: str, dimensions: int) -> None:
        self.model_name = model_name
        self.dimensions = dimensions

    @abstractmethod
    def check(self) -> None:
        """Raise ProviderUnavailable where `embed` cannot work on this machine; cheap enough for a page."""

    @abstractmethod
    def compute(self, texts: Sequence[str]) -> list[Vector]:
        """Return a vector per text, in their order, of any length but 0."""

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return a vector of length 1 per text, in their order.

        Raises ProviderUnavailable (correct something first), ProviderFailed (try again later), BadVector for another
        number of dimensions, TextRefused for what no index could hold: zero, infinity, NaN.
        """
        vectors = self.compute(texts) if texts else []
        if len(vectors) != len(texts):
            raise BadVector(f"{self.model_name}: {len(vectors)} vectors came back for {len(texts)} texts")
        return [self._normalized(vector) for vector in vectors]

    def _normalized(self, vector: Vector) -> Vector:
        if len(vector) != self.dimensions:
            raise BadVector(
                f"{self.model_name}: a vector has {len(vector)} dimensions, must have {self.dimensions}",
                "a model with other dimensions needs a row of its own in knowledge.models",
            )
        length = math.hypot(*vector)
        if not math.isfinite(length) or length == 0:
            raise TextRefused(f"{self.model_name}: a vector of length {length}")
        return [value / length for value in vector]
