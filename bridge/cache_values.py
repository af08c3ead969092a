"""What the query cache stores: a signed pickle. Unpickling runs code, so nothing is unpickled that was not signed with
our SECRET_KEY for exactly this key; anything else is a miss."""

import hashlib
import hmac
import pickle
from functools import lru_cache
from typing import Any

from django.conf import settings

from bridge.keys import encode_token

SIGNATURE_BYTES = 16
LONGEST_TOKEN = 255


class Unreadable(Exception):
    """The bytes were not written by us for this key, or the class of the value is gone."""


def make_token(key: str) -> str:
    """Return a cache key as one subject token; of a long key only its digest."""
    token = encode_token(key)
    if 0 < len(token) <= LONGEST_TOKEN:
        return token
    return f"=h{hashlib.sha256(key.encode()).hexdigest()}"  # `=h`: no encoded key has that


def dump(token: str, value: Any) -> bytes:
    """Return the signed pickle. Raises what pickling raises."""
    body = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return sign(token, body) + body


def load(token: str, data: bytes) -> Any:
    """Return the value. Raises Unreadable."""
    signature, body = data[:SIGNATURE_BYTES], data[SIGNATURE_BYTES:]
    if not hmac.compare_digest(signature, sign(token, body)):
        raise Unreadable(f"{token}: not signed with this SECRET_KEY")
    try:
        return pickle.loads(body)  # noqa: S301  (signed)
    except Exception as error:
        raise Unreadable(f"{token}: {error}") from error


def sign(token: str, body: bytes) -> bytes:
    digest = hashlib.blake2b(key=signing_key(settings.SECRET_KEY), digest_size=SIGNATURE_BYTES)
    digest.update(token.encode())
    digest.update(b"\0")
    digest.update(body)
    return digest.digest()


@lru_cache(maxsize=4)
def signing_key(secret: str) -> bytes:
    """Return the key of this purpose alone."""
    return hashlib.sha256(b"bridge.cache\0" + secret.encode()).digest()
