"""What the state API gives and takes: values as JSON, versions as text, and what can go wrong."""

import json
import re
from dataclasses import dataclass
from typing import Any

from agents.errors import AgentError
from agents.state import MAX_VALUE_BYTES, ValueTooLarge
from pg.errors import Refused

ABSENT_VERSION = "absent"
VERSION = re.compile(r"(?:kv-(\d{1,18})-(\d{1,18})|pg-(\d{1,18}))\Z")
NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # JSON may have it, PostgreSQL's jsonb may not


class VersionConflict(AgentError, Refused):
    """The key is not what the caller had read: read it again and decide anew. Nothing was changed."""


@dataclass(frozen=True)
class Version:
    """What a caller had read: a revision of the bucket made at `epoch`, or version `row` of the row while NATS was
    away, or (neither) nothing."""

    epoch: int = 0
    revision: int = 0
    row: int = 0

    def __str__(self) -> str:
        if self.revision:
            return f"kv-{self.epoch}-{self.revision}"
        return f"pg-{self.row}" if self.row else ABSENT_VERSION

    @classmethod
    def parse(cls, text: str) -> "Version":
        """Raises Refused for what never was a version."""
        if text == ABSENT_VERSION:
            return cls()
        match = VERSION.match(text)
        if match is None:
            raise Refused(f"version {text!r}: none of ours", f"pass what a read gave, or {ABSENT_VERSION}")
        epoch, revision, row = (int(part or 0) for part in match.groups())
        return cls(epoch, revision, row)


@dataclass(frozen=True)
class StateValue:
    """One key as it was read. `version` is for compare_and_set; `ttl_seconds` None: it does not expire."""

    key: str
    value: Any
    version: str
    ttl_seconds: int | None = None


@dataclass(frozen=True)
class StateChange:
    """One change that a watch saw; `value` None and `is_deleted`: the key is gone."""

    key: str
    value: Any
    version: str
    is_deleted: bool = False


def encode_value(key: str, value: Any) -> bytes:
    """Return the value as JSON, as both stores take it. Raises Refused, ValueTooLarge (2 MB less room for headers)."""
    if not 0 < len(key) <= 255:
        raise Refused(f"state key {key[:40]!r}: must have 1 to 255 characters")
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        data = text.encode()
    except (TypeError, ValueError) as error:
        raise Refused(f"state value of {key!r} is not JSON: {error}") from error
    if NUL.search(text):
        raise Refused(
            f"state value of {key!r} has the character U+0000", "PostgreSQL cannot keep it: encode it"
        )
    if len(data) > MAX_VALUE_BYTES:
        raise ValueTooLarge(
            f"value of {key!r} has {len(data)} bytes, the limit is {MAX_VALUE_BYTES}",
            "split it over several keys, or keep the bulk elsewhere and the reference here",
        )
    return data


def check_ttl(ttl_seconds: int | None) -> None:
    """Raise Refused for a time to live that is not a whole number of seconds above 0."""
    if ttl_seconds is not None and (type(ttl_seconds) is not int or ttl_seconds < 1):
        raise Refused(f"ttl_seconds={ttl_seconds!r}: must be a whole number of seconds, 1 or more, or None")
