import random

import pytest

from bridge.keys import decode_key, encode_key, encode_token, is_subject
from tests.bridge.conftest import rows

KEYS = [
    "plain", "memory.short", "a/b-c_D.9", "a..b", ".a", "a.", ".", "a=b", "=41", "ü", "a b", "a*", ">", "日本.語", "%",
    "\n", "a\n", "😀" * 200, "key:1", "'quoted'", "a\\b", "A.B.c", "x" * 255,
]  # fmt: skip


def random_keys(number: int) -> list[str]:
    source = random.Random(7)
    alphabet = "abzAZ09-_/.=:* >ü€😀\n'\"\\%"
    return ["".join(source.choices(alphabet, k=source.randint(1, 12))) for _ in range(number)]


@pytest.mark.parametrize("key", KEYS + random_keys(200))
def test_a_key_comes_back_as_it_was(key):
    encoded = encode_key(key)
    assert decode_key(encoded) == key
    assert is_subject(f"$KV.AGENT_STATE.0.{encoded}")
    assert set(encoded) <= set("-/_=.abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


def test_plain_keys_stay_readable():
    assert encode_key("memory.short") == "memory.short"
    assert encode_key("user name") == "user=20name"


@pytest.mark.django_db
def test_sql_encodes_as_python_does():
    keys = KEYS + random_keys(500)
    found = rows("SELECT k, bridge.encode_key(k), bridge.encode_token(k) FROM unnest(%s::text[]) k", keys)
    assert found == [(key, encode_key(key), encode_token(key)) for key in keys]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("ValueError: no such file", "valueerror_no_such_file"),
        ("", "unknown"),
        (None, "unknown"),
        ("…", "unknown"),
    ],
)
def test_reasons_become_one_short_token(text, slug):
    assert rows("SELECT bridge.slug(%s::text)", text) == [(slug,)]
