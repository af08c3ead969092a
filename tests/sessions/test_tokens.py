import hashlib

import pytest
from django.db import connection

from sessions.tokens import MAX_TOKEN_LENGTH, MIN_TOKEN_LENGTH, digest_of, id_of, is_possible, mint_token


def test_every_token_is_another_one_of_32_random_bytes():
    tokens = [mint_token() for _ in range(100)]
    assert len(set(tokens)) == 100
    assert {len(token) for token in tokens} == {43}


def test_no_token_looks_like_an_option(monkeypatch):
    drawn = iter(["-option", "--other", "token-1"])
    monkeypatch.setattr("secrets.token_urlsafe", lambda size: next(drawn))
    assert mint_token() == "token-1"


@pytest.mark.django_db
@pytest.mark.parametrize("token", ["a token of plain letters", "", "ümläut", "x" * 5000])
def test_python_and_sql_make_the_same_id_and_digest(token):
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT sessions.token_id(d), d FROM (SELECT sha256(convert_to(%s, 'UTF8')) AS d) x", [token]
        )
        session_id, digest = cursor.fetchone()
    assert (id_of(digest_of(token)), digest_of(token)) == (session_id, bytes(digest))


def test_an_id_is_a_uuid_of_version_8():
    made = id_of(hashlib.sha256(b"x").digest())
    assert (made.version, made.variant) == (8, "specified in RFC 4122")


@pytest.mark.parametrize(
    ("length", "verdict"),
    [
        (MIN_TOKEN_LENGTH - 1, False),
        (MIN_TOKEN_LENGTH, True),
        (MAX_TOKEN_LENGTH, True),
        (MAX_TOKEN_LENGTH + 1, False),
    ],
)
def test_a_token_has_a_least_and_a_greatest_length(length, verdict):
    assert is_possible("x" * length) is verdict


def test_any_text_has_a_digest():
    assert len(digest_of("\ud800" * 40)) == 32
    assert len(digest_of("\0" * 40)) == 32
