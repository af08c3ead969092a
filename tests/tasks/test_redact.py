import pytest

from tasks.redact import redact


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("postgresql://me:s3cret@host/db", "postgresql://me:[redacted]@host/db"),
        ("Authorization: Bearer abcdefghijkl", "Authorization: [redacted] [redacted]"),
        ("sent Bearer abcdefghijkl to it", "sent Bearer [redacted] to it"),
        ("api_key='abc def', rest", "api_key=[redacted], rest"),
        ('{"client_secret": "x y", "a": 1}', '{"client_secret": [redacted], "a": 1}'),
        ("DB_PASSWORD=abc; next", "DB_PASSWORD=[redacted]; next"),
        ("https://host/reset/token=abc", "https://host/reset/token=[redacted]"),
        ("key ghp_0123456789abcdefABCDEF", "key [redacted]"),
        ("got eyJhbGciOiJI.eyJzdWIiOiIx.abc_def", "got [redacted]"),
        ("AKIAABCDEFGHIJKLMNOP", "[redacted]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----!", "[redacted]!"),
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text, left):
    assert redact(text) == left
    assert redact(left) == left


@pytest.mark.parametrize(
    "text",
    [
        "ValueError: 3 tokens left",
        "see https://host:80/a",
        "monkey=1",
        "a secretary",
        "/etc/passwd: not found",
    ],
)
def test_what_does_not_is_left(text):
    assert redact(text) == text


@pytest.mark.parametrize("text", ["x" * 200_000, "password" * 25_000, "a:" * 100_000, "://" * 60_000])
def test_a_hostile_line_is_read_once(text):
    """A pattern that begins anew at each character would not come back from these."""
    assert redact(text) == text
