"""What a message of a FLUSH stream means: a change of one key, at a position. Pure."""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from bridge.headers import AGENT_EPOCH, MARKER, OPERATION, SOURCE, SYNC_ORIGIN, TTL

DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?\Z")
LONGEST = timedelta(days=365 * 100)


class Unreadable(ValueError):
    """A message that means nothing that could be applied."""


class Letter(NamedTuple):
    """A message as it was stored: of any stream, from a consumer or out of the dead letters. `sequence` and `epoch`
    are the stream's; `deliveries` counts from 1."""

    subject: str
    data: bytes
    headers: Mapping[str, str]
    sequence: int
    epoch: int
    stored_at: datetime
    deliveries: int = 1
    reply: str = ""


class Change(NamedTuple):
    """One key's new value, as JSON text; None: the key is gone. `is_own`: PostgreSQL sent it. `agent_epoch` None: the
    writer named none. `expires_at` None: it stays."""

    key: str
    value: str | None
    revision: int
    is_own: bool
    agent_epoch: int | None
    expires_at: datetime | None
    letter: Letter


def read_change(letter: Letter, bucket: str) -> Change | None:
    """Return what a message says; None for what changes nothing: a value ran out, or PostgreSQL's own value. Raises
    Unreadable."""
    headers = letter.headers
    if MARKER in headers:
        return None
    is_gone = headers.get(OPERATION) in ("DEL", "PURGE")
    is_own = SYNC_ORIGIN in headers
    if is_own and not is_gone:
        return None
    try:
        value = None if is_gone else letter.data.decode()
        epoch = int(headers[AGENT_EPOCH]) if AGENT_EPOCH in headers else None
    except ValueError as error:
        raise Unreadable(str(error)) from error
    if epoch is not None and not 0 < epoch < 1 << 63:
        raise Unreadable(f"{AGENT_EPOCH} is {epoch}: must be an agent's epoch")
    return Change(
        letter.subject.removeprefix(f"$KV.{bucket}."),
        value,
        read_revision(headers),
        is_own,
        epoch,
        letter.stored_at + ttl if (ttl := read_ttl(headers.get(TTL))) else None,
        letter,
    )


def read_revision(headers: Mapping[str, str]) -> int:
    """Return the revision in the bucket, which the server noted: `KV_AGENT_STATE 42 > > $KV.AGENT_STATE.a.b ...`."""
    try:
        return int(headers[SOURCE].split(" ", 2)[1])
    except (KeyError, ValueError, IndexError) as error:
        raise Unreadable(f"no revision in {headers.get(SOURCE)!r}: not written through the bucket") from error


def read_ttl(text: str | None) -> timedelta | None:
    """Return a time to live as nats-server reads it; None: none, `never`, or nothing that it would have taken."""
    if not text or text == "never":
        return None
    if text.isascii() and text.isdigit():
        return min(timedelta(seconds=min(int(text), LONGEST.total_seconds())), LONGEST) or None
    match = DURATION.match(text)
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0.0, 0.0, 0.0)
    return min(timedelta(hours=hours, minutes=minutes, seconds=seconds), LONGEST) or None
