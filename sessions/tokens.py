"""Tokens: the database keeps SHA-256(token), and the session's id is the beginning of it.

The token leaves `open_session` and `rotate` once, as their result. It is written nowhere, put into no SQL statement and
no log. A digest found in a dump or a log opens nothing: 256 random bits cannot be found from their hash.

On timing: a token is looked up by an id made of its hash, so how long the look-up takes tells about the hash of a
guess, never about how much of a token is right. The whole digests are compared in constant time all the same.
"""

import hmac
import secrets
from hashlib import sha256
from uuid import UUID

TOKEN_BYTES = 32
MIN_TOKEN_LENGTH = 32  # characters; ours have 43
MAX_TOKEN_LENGTH = 1024  # longer texts are not even hashed


def mint_token() -> str:
    """Return a new token: 32 random bytes as 43 URL-safe characters, of which the first is no hyphen.

    A command would take a token that begins with one for an option, and repeat it in its error.
    """
    while (token := secrets.token_urlsafe(TOKEN_BYTES)).startswith("-"):
        pass
    return token


def is_possible(token: str) -> bool:
    """Tell whether a text may be a token at all."""
    return MIN_TOKEN_LENGTH <= len(token) <= MAX_TOKEN_LENGTH


def digest_of(token: str) -> bytes:
    """Return SHA-256 of the token. Any text has one, also what is not valid Unicode."""
    return sha256(token.encode("utf-8", "surrogatepass")).digest()


def id_of(digest: bytes) -> UUID:
    """Return the session id of a digest: its first 122 bits as a UUIDv8, as `sessions.token_id` does in SQL."""
    raw = bytearray(digest[:16])
    raw[6] = (raw[6] & 0x0F) | 0x80
    raw[8] = (raw[8] & 0x3F) | 0x80
    return UUID(bytes=bytes(raw))


def is_same(one: bytes, other: bytes) -> bool:
    """Compare digests in constant time."""
    return hmac.compare_digest(one, other)
