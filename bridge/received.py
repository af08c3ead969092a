"""Messages that agents publish on AGENT_MESSAGES, into messages.log and to their recipients.

The id is minted here: UUIDv7 of the time at which the stream stored the message, with a hash of where it is stored. So
a message that is read twice is logged once, and an agent's clock may say what it likes. What the control plane
published itself is in the log already.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

from bridge import topology
from bridge.changes import Letter
from bridge.headers import TRACEPARENT
from bridge.keys import decode_key
from bridge.reader import Done, Reader
from messaging.models import Message
from messaging.send import Route, send
from pg.errors import Refused
from pg.uuid7 import uuid7_at

FIELDS = {
    "message_type",
    "subject",
    "payload",
    "headers",
    "correlation_id",
    "reply_to",
    "priority",
    "expires_at",
    "is_persistent",
    "from_agent_id",
    "broadcast_to_type",
    "channel",
}


class MessageReader(Reader):
    consumer = f"AGENT_MESSAGES/{topology.MESSAGES}"

    def apply(self, letter: Letter) -> Done:
        told = read_envelope(letter.data)
        if told.get("is_persistent") is False:
            return Done.STALE
        message_id = mint_id(letter)
        if Message.objects.filter(pk=message_id).exists():
            return Done.STALE
        route, sender, subject = read_route(letter.subject, told)
        send(
            told["payload"],
            **vars(route),
            from_agent=sender,
            subject=subject if subject is not None else told.get("subject"),
            message_type=told.get("message_type", "notification"),
            headers={**told.get("headers", {}), **names_of(letter)},
            correlation_id=told.get("correlation_id"),
            reply_to=told.get("reply_to"),
            priority=told.get("priority", 0),
            expires_at=read_time(told.get("expires_at")),
            message_id=message_id,
        )
        return Done.APPLIED


def mint_id(letter: Letter) -> UUID:
    """Return the id of a message of the stream: always the same for the same one."""
    place = f"AGENT_MESSAGES/{letter.epoch}/{letter.sequence}".encode()
    return uuid7_at(letter.stored_at, int.from_bytes(sha256(place).digest()[:10], "big"))


def read_envelope(data: bytes) -> dict[str, Any]:
    """Return what the message says of itself. Raises Refused."""
    hint = "see docs/messaging.md, On NATS"
    try:
        told = json.loads(data)
    except ValueError as error:
        raise Refused(f"no JSON: {error}", hint) from error
    if not isinstance(told, dict) or "payload" not in told:
        raise Refused("a message is a JSON object with `payload`", hint)
    headers = told.get("headers", {})
    if not isinstance(headers, dict):
        raise Refused("headers: must be an object", hint)
    if not isinstance(told.get("priority", 0), int):
        raise Refused(f"priority={told['priority']!r}: must be a number", hint)
    return {name: value for name, value in told.items() if name in FIELDS and value is not None}


def read_route(subject: str, told: Mapping[str, Any]) -> tuple[Route, UUID, str | None]:
    """Return where a message goes, who sent it, and the subject that its own subject carries. Raises Refused."""
    kind, *tokens = subject.removeprefix("messages.").split(".")
    names = [decode_key(token) for token in tokens]
    if kind in ("direct", "broadcast"):
        sender = read_id("the sender in the subject", names[0])
    else:
        sender = read_id("from_agent_id", told.get("from_agent_id"))
    if kind == "direct" and len(names) == 2:
        return direct_route(names[1]), sender, None
    if kind == "broadcast" and len(names) == 1:
        return broadcast_route(told), sender, None
    if kind == "notification" and len(names) == 1:
        return Route(broadcast_to_type=names[0]), sender, None
    if kind == "queue" and len(names) == 1:
        return Route(channel=names[0]), sender, None
    if kind == "topic" and len(names) > 1:
        return Route(channel=names[0]), sender, ".".join(names[1:])
    raise Refused(f"{subject}: no route", "see docs/messaging.md, On NATS")


def direct_route(target: str) -> Route:
    """An agent's id, or the name of a direct channel."""
    try:
        return Route(to_agent=UUID(target))
    except ValueError:
        return Route(channel=target)


def broadcast_route(told: Mapping[str, Any]) -> Route:
    """`send` refuses both and neither."""
    return Route(broadcast_to_type=told.get("broadcast_to_type"), channel=told.get("channel"))


def read_id(what: str, text: Any) -> UUID:
    try:
        return UUID(str(text))
    except ValueError:
        raise Refused(f"{what} is {text!r}: must be an agent's id") from None


def read_time(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except (TypeError, ValueError):
        raise Refused(f"expires_at={text!r}: must be an ISO 8601 time with zone") from None


def names_of(letter: Letter) -> dict[str, str]:
    """What the sender itself called the message, the time by its clock, and its trace: kept, never believed."""
    kept = ("Nats-Msg-Id", "Sender-Time", TRACEPARENT)
    return {name: letter.headers[name] for name in kept if name in letter.headers}
