"""Encryption of what goes to a store: AES-256-GCM in a stream, so that a part of any size needs no memory.

    SEAL1 \\n  length of key id (1 byte)  key id  salt (32 bytes)  chunk*  last chunk

Each object has a key of its own, derived (HKDF-SHA256) from the named one and the salt. Each chunk of 1 MiB is sealed
with its number and whether it is the last as nonce, and with the header and the object's name as associated data:
chunks that are moved, left out or cut off, and an object under another's name, are damage. The salt is an HMAC of name
and contents: sealing the same again gives the same bytes, so that an upload goes on where it stopped, and other
contents never meet the same nonces. That construction is STREAM of Hoang, Reyhanitabar, Rogaway and Vizar (2015), as
age and Tink use it.
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

from recovery.errors import Damaged, NoKey

MAGIC = b"SEAL1\n"
CHUNK_BYTES, TAG_BYTES, SALT_BYTES, KEY_BYTES = 1 << 20, 16, 32, 32
KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")
SETTING = "BACKUP_ENCRYPTION_KEYS"


@dataclass(frozen=True)
class Keys:
    """Keys by id; the first one seals, all open. Empty: nothing is encrypted."""

    by_id: dict[str, bytes]

    @property
    def current(self) -> str | None:
        return next(iter(self.by_id), None)

    def __repr__(self) -> str:
        return f"Keys({', '.join(self.by_id)})"


def keys_of_settings() -> Keys:
    """Return the keys of BACKUP_ENCRYPTION_KEYS. Raises NoKey for what cannot be read, without repeating it."""
    return read_keys(settings.BACKUP_ENCRYPTION_KEYS)


def read_keys(text: str) -> Keys:
    found: dict[str, bytes] = {}
    for number, word in enumerate(filter(None, (part.strip() for part in text.split(","))), 1):
        key_id, _, value = word.partition(":")
        try:
            key = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not KEY_ID.fullmatch(key_id) or len(key) != KEY_BYTES or key_id in found:
            raise NoKey(
                f"{SETTING}: number {number} is not id:key, or its id is there twice",
                "use 32 bytes as base64, for instance of `manage.py backup key`; the first seals, all open",
            )
        found[key_id] = key
    return Keys(found)


def make_key(key_id: str) -> str:
    """Return a new key as BACKUP_ENCRYPTION_KEYS takes it."""
    return f"{key_id}:{base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}"


# -- sealing ------------------------------------------------------------------------------------------------
def seal(source: Path, target: Path, name: str, keys: Keys, sha256: str) -> None:
    """Write the sealed `source`, whose SHA-256 is given, to `target`. Raises NoKey without a key, Damaged where the
    file has other contents: sealing two of them with one salt would give both away, so nothing is left then."""
    if keys.current is None:
        raise NoKey(f"{SETTING} is not set", "make one: `manage.py backup key`")
    master = keys.by_id[keys.current]
    salt = hmac.digest(master, b"salt" + name.encode() + b"\0" + bytes.fromhex(sha256), "sha256")
    header = MAGIC + bytes([len(keys.current)]) + keys.current.encode() + salt
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with source.open("rb") as raw, os.fdopen(handle, "wb") as out:
        out.write(header)
        digest, cipher, bound = hashlib.sha256(), AESGCM(object_key(master, salt)), header + name.encode()
        for number, is_last, chunk in numbered(raw, CHUNK_BYTES):
            digest.update(chunk)
            out.write(cipher.encrypt(nonce(number, is_last), chunk, bound))
    if digest.hexdigest() != sha256:
        target.unlink()  # before anybody else sees it
        raise Damaged(
            f"{source} has other contents: its SHA-256 differs", "look for the cause: is a disk failing?"
        )


def is_sealed(path: Path) -> bool:
    with path.open("rb") as raw:
        return raw.read(len(MAGIC)) == MAGIC


def unseal(source: Path, target: Path, name: str, keys: Keys) -> str:
    """Write what was sealed as `name` to `target`; return the id of its key. Raises NoKey, Damaged: then the target is
    gone again, nothing of it is to be used."""
    try:
        with source.open("rb") as raw:
            header, key_id, salt = read_header(raw, source)
            if key_id not in keys.by_id:
                raise NoKey(
                    f"{name} is encrypted with key {key_id}, which we do not have",
                    f"add it to {SETTING}: behind the first one it only opens",
                )
            cipher = AESGCM(object_key(keys.by_id[key_id], salt))
            handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "wb") as out:
                for number, is_last, chunk in numbered(raw, CHUNK_BYTES + TAG_BYTES):
                    out.write(cipher.decrypt(nonce(number, is_last), chunk, header + name.encode()))
    except InvalidTag as error:
        target.unlink(missing_ok=True)
        raise Damaged(
            f"{name} cannot be opened: it was changed, cut short, or key {key_id} is another one of that name",
            f"another copy is needed; or correct {SETTING}",
        ) from error
    return key_id


def read_header(raw: IO[bytes], source: Path) -> tuple[bytes, str, bytes]:
    """Return the header, the key's id and the salt. Raises Damaged."""
    begin = raw.read(len(MAGIC) + 1)
    length = begin[-1] if len(begin) > len(MAGIC) else 0
    rest = raw.read(length + SALT_BYTES)
    key_id = rest[:length].decode("ascii", "replace")
    if not begin.startswith(MAGIC) or len(rest) != length + SALT_BYTES or not KEY_ID.fullmatch(key_id):
        raise Damaged(f"{source.name} does not begin as an encrypted object does", "another copy is needed")
    return begin + rest, key_id, rest[length:]


def object_key(master: bytes, salt: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=b"mistersmith backup").derive(master)


def nonce(number: int, is_last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([is_last])


def numbered(raw: IO[bytes], size_bytes: int) -> Iterator[tuple[int, bool, bytes]]:
    """Yield the rest of the file in chunks: number, whether it is the last, contents. There always is a last one."""
    number, chunk = 0, raw.read(size_bytes)
    while True:
        following = raw.read(size_bytes) if len(chunk) == size_bytes else b""
        yield number, not following, chunk
        if not following:
            return
        number, chunk = number + 1, following
