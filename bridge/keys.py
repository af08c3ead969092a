"""State keys as KV knows them; the same rule as `bridge.encode_key` in SQL, and one for every client to copy.

A key of letters, digits, `-`, `_`, `/` and inner single dots stays as it is (`memory.short`). In any other key each
byte of its UTF-8 text outside `[-_/A-Za-z0-9]`, the dot included, becomes `=XX` (upper-case hexadecimal). Decoding
needs no rule but this one: `=XX` is a byte, everything else stands for itself.
"""

import re
from uuid import UUID

PLAIN = re.compile(r"[-/_a-zA-Z0-9]+(\.[-/_a-zA-Z0-9]+)*\Z")
KEPT = frozenset(b"-/_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
ESCAPE = re.compile(rb"=([0-9A-F]{2})")
FENCE = ".=epoch"
SUBJECT = re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*\Z")


def encode_key(state_key: str) -> str:
    """Return `state_key` (not empty) as it stands in a KV key."""
    return state_key if PLAIN.match(state_key) else encode_token(state_key)


def encode_token(text: str) -> str:
    """Return `text` as one subject token."""
    return "".join(chr(byte) if byte in KEPT else f"={byte:02X}" for byte in text.encode())


def decode_key(encoded: str) -> str:
    """Return the state key; bytes that are no UTF-8 (nobody's encoding made them) become U+FFFD."""
    if "=" not in encoded:
        return encoded
    return ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode()), encoded.encode()).decode(
        errors="replace"
    )


def agent_state_key(agent_id: UUID | str, state_key: str) -> str:
    """Return the key in AGENT_STATE of one key of an agent's state."""
    return f"{agent_id}.{encode_key(state_key)}"


def fence_key(agent_id: UUID | str) -> str:
    """Return the key in AGENT_STATE that holds the agent's epoch: no state key is encoded like that."""
    return f"{agent_id}{FENCE}"


def is_fence(key: str) -> bool:
    """Tell whether a key of AGENT_STATE holds an epoch, not state."""
    return key.endswith(FENCE)


def is_subject(text: str) -> bool:
    """Tell whether a message could be stored under `text`: tokens without blanks or wildcards."""
    return bool(SUBJECT.match(text))
