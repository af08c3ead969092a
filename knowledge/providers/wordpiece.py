"""BERT's uncased WordPiece tokenizer: texts become the ids that the local model reads. Standard library only."""

import unicodedata
from collections.abc import Iterator
from functools import cache
from importlib import resources

MAX_WORD_CHARACTERS = 100  # a longer word is unknown
MAX_CACHED_WORDS = 50_000
CJK = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2CEAF), (0x2F800, 0x2FA1F))


@cache
def read_vocabulary() -> dict[str, int]:
    """Return the ids of the 30,522 word pieces; see NOTICE for where they come from."""
    text = (resources.files(__package__) / "vocabulary.txt").read_text("utf-8")
    return {piece: number for number, piece in enumerate(text.removesuffix("\n").split("\n"))}


class WordPiece:
    """Encodes texts with one vocabulary, at most `max_tokens` ids each, the two marks included."""

    def __init__(self, vocabulary: dict[str, int], max_tokens: int) -> None:
        self.vocabulary = vocabulary
        self.max_tokens = max_tokens
        self._start, self._end = vocabulary["[CLS]"], vocabulary["[SEP]"]
        self._unknown = vocabulary["[UNK]"]
        self._known_words: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text between its two marks; what is beyond the limit is cut off."""
        ids = [self._start]
        for word in split_words(text):
            ids += self._ids_of(word)
            if len(ids) >= self.max_tokens:
                break
        return [*ids[: self.max_tokens - 1], self._end]

    def _ids_of(self, word: str) -> list[int]:
        known = self._known_words.get(word)
        if known is None:
            known = self._pieces_of(word)
            if len(self._known_words) < MAX_CACHED_WORDS:
                self._known_words[word] = known
        return known

    def _pieces_of(self, word: str) -> list[int]:
        """Return the longest pieces from left to right; one unknown where the vocabulary has none."""
        ids: list[int] = []
        begin = 0
        while begin < len(word) <= MAX_WORD_CHARACTERS:
            mark = "##" if begin else ""
            ends = range(len(word), begin, -1)
            end = next((end for end in ends if mark + word[begin:end] in self.vocabulary), None)
            if end is None:
                return [self._unknown]
            ids.append(self.vocabulary[mark + word[begin:end]])
            begin = end
        return ids or [self._unknown]


def split_words(text: str) -> Iterator[str]:
    """Yield lower-case words without accents; each punctuation mark and each Chinese character is a word."""
    cleaned = "".join(clean(character) for character in text)
    bare = (c for c in unicodedata.normalize("NFD", cleaned) if unicodedata.category(c) != "Mn")
    for word in "".join(bare).lower().split():
        yield from split_punctuation(word)


def clean(character: str) -> str:
    """Return a blank for any blank, nothing for a control or format character, blanks around a Chinese character."""
    category = unicodedata.category(character)
    if character in "\t\n\r" or category == "Zs":
        return " "
    if category in ("Cc", "Cf", "Co") or character == "\ufffd":
        return ""
    if any(first <= ord(character) <= last for first, last in CJK):
        return f" {character} "
    return character


def split_punctuation(word: str) -> Iterator[str]:
    begin = 0
    for place, character in enumerate(word):
        if is_punctuation(character):
            if begin < place:
                yield word[begin:place]
            yield character
            begin = place + 1
    if begin < len(word):
        yield word[begin:]


def is_punctuation(character: str) -> bool:
    """All signs of ASCII count, also those that Unicode calls symbols, such as $ and +."""
    is_ascii_sign = character.isascii() and character.isprintable() and not character.isalnum()
    return is_ascii_sign or unicodedata.category(character)[0] == "P"
