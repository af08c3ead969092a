"""One key of a bucket: its newest entry, and writes on conditions that the server checks.

Times to live are the server's (header Nats-TTL, whole seconds, at least one). In a bucket with history, a value with a
time to live must also drop the older ones (Nats-Rollup), or they would come back when it expires.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import nats.js.errors
from nats.aio.msg import Msg
from nats.js.client import JetStreamContext

from bridge.connection import Client
from bridge.headers import EXPECTED as EXPECTED
from bridge.headers import MARKER, OPERATION, SYNC_ORIGIN, TTL
from bridge.publisher import Message, Outcome
from bridge.topology import Bucket
from pg.errors import Unreachable

NEVER = "never"
ROLLUP = {"Nats-Rollup": "sub"}
GONE = ("DEL", "PURGE")


@dataclass(frozen=True)
class Entry:
    """The newest message of a key. `revision` 0: there is none."""

    revision: int = 0
    data: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    stored_at: float = 0.0  # seconds since 1970, by the server's clock

    @property
    def is_live(self) -> bool:
        """Whether there is a value: a marker says that it was deleted, or expired."""
        return self.revision > 0 and not self.is_deleted and MARKER not in self.headers

    @property
    def is_deleted(self) -> bool:
        """Whether somebody deleted the key (expiry is no deletion)."""
        return self.headers.get(OPERATION) in GONE

    @property
    def is_foreign(self) -> bool:
        """Whether an agent wrote it: what the control plane writes says so."""
        return self.revision > 0 and SYNC_ORIGIN not in self.headers

    def seconds_left(self) -> int | None:
        """Return the rest of its own time to live, at least 1; None: it has none."""
        ttl_seconds = parse_ttl(self.headers.get(TTL))
        if ttl_seconds is None:
            return None
        return min(ttl_seconds, max(1, math.ceil(self.stored_at + ttl_seconds - time.time())))


ABSENT = Entry()


def parse_ttl(text: str | None) -> int | None:
    """Return whole seconds of a Nats-TTL header: `90`, `90s`, `2m`, `1h30m`; None for `never` and what is no time."""
    units = {"h": 3600, "m": 60, "s": 1}
    total, number = 0, ""
    for character in text or "":
        if character.isdigit():
            number += character
        elif character in units and number:
            total, number = total + int(number) * units[character], ""
        else:
            return None
    return (total + int(number or 0)) or None


def epoch_of(created: datetime | None) -> int:
    """Return when a bucket was made in microseconds since 1970: revisions of another one mean other writes."""
    return (created - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) if created else 0


def ttl_header(seconds: int | None) -> dict[str, str]:
    return {} if seconds is None else {TTL: f"{seconds}s"}


def value_headers(ttl_seconds: int | None) -> dict[str, str]:
    """A value that expires takes the older ones of its key with it: else they would be there again."""
    return {} if ttl_seconds is None else {**ttl_header(ttl_seconds), **ROLLUP}


async def read_entry(client: Client, bucket: Bucket, key: str, timeout_seconds: float) -> Entry:
    """Return the newest entry by direct get: any replica answers, so on a cluster it may be a little old."""
    subject = f"$JS.API.DIRECT.GET.{bucket.stream}.{bucket.subject(key)}"
    return to_entry(await client.nc.request(subject, timeout=timeout_seconds))


def to_entry(message: Msg) -> Entry:
    """Return what a direct get answers."""
    headers = message.headers or {}
    if "Status" in headers:
        return ABSENT
    stored_at = datetime.fromisoformat(headers["Nats-Time-Stamp"]).timestamp()
    return Entry(int(headers["Nats-Sequence"]), message.data, headers, stored_at)


async def read_entry_of_leader(client: Client, bucket: Bucket, key: str, timeout_seconds: float) -> Entry:
    """Return the newest entry as the stream's leader knows it."""
    jetstream = JetStreamContext(client.nc, timeout=timeout_seconds)
    try:
        found = await jetstream.get_last_msg(bucket.stream, bucket.subject(key))
    except nats.js.errors.NotFoundError:
        return ABSENT
    except nats.js.errors.APIError as error:  # no leader just now, for instance
        raise Unreachable(f"bucket {bucket.name}: {error.description}", "see nats-server's log") from error
    stored_at = found.time.timestamp() if found.time else 0.0
    return Entry(found.seq, found.data or b"", found.headers or {}, stored_at)


async def write_entry(
    client: Client,
    bucket: Bucket,
    key: str,
    data: bytes,
    headers: Mapping[str, str],
    timeout_seconds: float,
) -> Outcome:
    """Publish one message; return what became of it."""
    message = Message(bucket.subject(key), data, headers)
    return (await client.publisher.publish([message], timeout_seconds))[0]
