"""The ids are those that the reference tokenizer (Rust, `tokenizers` 0.23.3) gives for the same vocabulary."""

import hashlib
from importlib import resources

import pytest

from knowledge.providers.wordpiece import WordPiece, read_vocabulary, split_words

VOCABULARY_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
KNOWN = {
    "parse command line options": [101, 11968, 3366, 3094, 2240, 7047, 102],
    "Naïve café: don't!": [101, 15743, 7668, 1024, 2123, 1005, 1056, 999, 102],
    "argparse.ArgumentParser": [101, 12098, 21600, 11650, 2063, 1012, 6685, 19362, 8043, 102],
    "x" * 101: [101, 100, 102],
    "": [101, 102],
    "\x00\u200b\ufffd": [101, 102],
}


@pytest.fixture(scope="module")
def tokenizer():
    return WordPiece(read_vocabulary(), 128)


def test_the_vocabulary_is_the_one_that_the_model_was_trained_with():
    content = (resources.files("knowledge.providers") / "vocabulary.txt").read_bytes()
    assert len(read_vocabulary()) == 30_522
    assert hashlib.sha256(content).hexdigest() == VOCABULARY_SHA256


@pytest.mark.parametrize("text", KNOWN)
def test_ids_are_those_of_the_reference(tokenizer, text):
    assert tokenizer.encode(text) == KNOWN[text]
    assert tokenizer.encode(text) == KNOWN[text], "and from the cache"


def test_a_mark_written_in_a_text_is_only_text(tokenizer):
    assert tokenizer.encode("[SEP]") != [101, 102, 102]


@pytest.mark.parametrize(("words", "length"), [(125, 127), (126, 128), (127, 128), (1_000, 128)])
def test_what_is_beyond_the_limit_is_cut_off_before_the_end_mark(tokenizer, words, length):
    ids = tokenizer.encode("word " * words)
    assert (len(ids), ids[0], ids[-1]) == (length, 101, 102)


def test_words_are_split_at_signs_and_chinese_characters():
    assert list(split_words("A+b_C 中文\tÉ")) == ["a", "+", "b", "_", "c", "中", "文", "e"]
