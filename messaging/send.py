"""Send messages: to one agent, to every agent of a type, or through a channel.

A message is a row of messages.log and one row of messages.deliveries per recipient, written by one statement: all or
nothing, in the caller's transaction where there is one. Ids and times are PostgreSQL's own.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import QuerySet

from agents.errors import UnknownAgent
from messaging.channels import MAX_LENGTH
from messaging.delivery import Taken
from messaging.errors import MessageRefused, UnknownChannel
from messaging.models import Message, MessageType
from messaging.signals import message_passed
from monitoring import tracing
from pg.errors import MisterSmithError
from pg.json import dump_json
from pg.queries import Queries
from pg.uuid7 import uuid7

QUERIES = Queries("messaging")
MAX_PAYLOAD_BYTES = 1 << 20  # payload and headers together, as JSON; NATS takes no more by default
MAX_PRIORITY = 10
OPEN_DAYS = 7  # what nobody took by then expires


@dataclass(frozen=True, kw_only=True)
class Route:
    """Where a message goes: exactly one of the three. `channel` is a name."""

    to_agent: UUID | None = None
    broadcast_to_type: str | None = None
    channel: str | None = None


@dataclass(frozen=True)
class Sent:
    """A message on its way. `recipients`: deliveries written; 1 for a queue, whoever takes it; 0: nobody listens."""

    message_id: UUID
    correlation_id: UUID | None
    recipients: int


@dataclass(frozen=True, kw_only=True)
class Passing:
    """A message that is not kept: what receivers of `message_passed` get. None as in `send`."""

    message_id: UUID
    from_agent: UUID | None
    route: Route
    channel_type: str | None
    message_type: str
    subject: str | None
    payload: Any
    headers: Mapping[str, Any]
    correlation_id: UUID | None
    reply_to: str | None
    priority: int
    expires_at: datetime | None


def send(
    payload: Any,
    *,
    to_agent: UUID | None = None,
    broadcast_to_type: str | None = None,
    channel: str | None = None,
    message_type: str = MessageType.NOTIFICATION,
    from_agent: UUID | None = None,
    subject: str | None = None,
    headers: Mapping[str, Any] | None = None,
    correlation_id: UUID | None = None,
    reply_to: str | None = None,
    priority: int = 0,
    expires_at: datetime | None = None,
    is_persistent: bool = True,
    message_id: UUID | None = None,
) -> Sent:
    """Send a message along exactly one of `to_agent`, `broadcast_to_type`, `channel`. One round trip.

    `broadcast_to_type` reaches every agent that has the type now and is not terminated, the sender too; `channel` is a
    name, see `messaging.channels`. `from_agent` None: the control plane itself. `correlation_id` None: a query's own
    id, else none. `reply_to`: the channel that wants the answer; None: the sender does. `priority` 0 to 10, the highest
    is taken first. `expires_at` (aware, within OPEN_DAYS; None: OPEN_DAYS from now): who has not taken it by then does
    not get it. `is_persistent=False`: not written, only handed to those who listen at this moment, best effort.

    Raises MessageRefused, UnknownAgent, UnknownChannel; then nothing is written. Sending twice sends two messages, but
    for one that the bridge received: it names its `message_id` (None: a new one), and an id is logged once.
    """
    route = Route(to_agent=to_agent, broadcast_to_type=broadcast_to_type, channel=channel)
    check_route(route)
    check_fields(message_type, subject, reply_to, priority, expires_at)
    headers = with_trace(headers or {})
    values = {
        "message_id": message_id,
        "from_agent": from_agent,
        **asdict(route),
        "message_type": str(message_type),
        "subject": subject,
        **dump_parts(payload, headers),
        "correlation_id": correlation_id,
        "reply_to": reply_to,
        "priority": priority,
        "expires_at": expires_at,
        "open_days": OPEN_DAYS,
    }
    if not is_persistent:
        return pass_by(values, payload, headers, route)
    rows = QUERIES.run("send", values)
    if not rows:
        raise find_refusal(values)
    return Sent(**rows[0])


def reply(message: Taken, payload: Any, **options: Any) -> Sent:
    """Answer a message from the agent that took it; `options` as in `send`.

    It goes to the channel that `reply_to` names, else to the sender, and carries the message's correlation id (its own
    id where it has none). Raises MessageRefused for a message that nobody sent.
    """
    if message.reply_to is None and message.from_agent_id is None:
        raise MessageRefused(f"{message.message_id} names neither a sender nor reply_to: nobody to answer")
    target: dict[str, Any] = {"channel": message.reply_to}
    if message.reply_to is None:
        target = {"to_agent": message.from_agent_id}
    defaults: dict[str, Any] = {
        "message_type": MessageType.RESPONSE,
        "from_agent": message.agent_id,
        "correlation_id": message.correlation_id or message.message_id,
        "subject": message.subject,
        "priority": message.priority,
    }
    return send(payload, **target, **(defaults | options))


def responses_to(sent: Sent) -> QuerySet[Message]:
    """Return the answers to a message, the oldest first; partitions before it are not read."""
    answers = (MessageType.RESPONSE, MessageType.ERROR)
    found = Message.objects.filter(
        pk__gt=sent.message_id,
        correlation_id=sent.correlation_id or sent.message_id,
        message_type__in=answers,
    )
    return found.order_by("pk")


def pass_by(values: dict[str, Any], payload: Any, headers: Mapping[str, Any], route: Route) -> Sent:
    """Hand a message to whoever listens now. One query, which checks the route."""
    if refusal := refusal_of(checked := look_at(values), values):
        raise refusal
    message = Passing(
        message_id=uuid7(),
        route=route,
        channel_type=checked["channel_type"],
        payload=payload,
        headers=headers,
        **{
            name: values[name]
            for name in (
                "from_agent",
                "message_type",
                "subject",
                "correlation_id",
                "reply_to",
                "priority",
                "expires_at",
            )
        },
    )
    message_passed.send_robust(Passing, message=message)
    return Sent(message.message_id, message.correlation_id, 0)


# -- rules --------------------------------------------------------------------------------------------------
def check_route(route: Route) -> None:
    given = [name for name, value in asdict(route).items() if value is not None]
    if len(given) != 1:
        raise MessageRefused(
            f"route: {' and '.join(given) or 'none'} given",
            "give exactly one of to_agent, broadcast_to_type, channel",
        )


def check_fields(
    message_type: str, subject: str | None, reply_to: str | None, priority: int, expires_at: datetime | None
) -> None:
    if message_type not in MessageType.values:
        raise MessageRefused(f"message_type={message_type!r}: must be one of {', '.join(MessageType.values)}")
    if not 0 <= priority <= MAX_PRIORITY:
        raise MessageRefused(f"priority={priority}: must be 0 to {MAX_PRIORITY}")
    if expires_at is not None and expires_at.tzinfo is None:
        raise MessageRefused(f"expires_at={expires_at}: must have a time zone")
    if reply_to is not None and not 0 < len(reply_to) <= MAX_LENGTH:
        raise MessageRefused(f"reply_to: must have 1 to {MAX_LENGTH} characters")
    if subject is not None and not is_subject(subject):
        raise MessageRefused(
            f"subject={subject[:40]!r}: must be tokens with dots between, at most {MAX_LENGTH} characters",
            "tokens have no blanks, `*` or `>`: `orders.42.paid`",
        )


def is_subject(text: str) -> bool:
    """Tell whether patterns can be held against it."""
    is_plain = not any(character in "*>" or character.isspace() for character in text)
    return is_plain and 0 < len(text) <= MAX_LENGTH and all(text.split("."))


def with_trace(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add the trace that is open here, unless the sender gave one."""
    trace = tracing.traceparent()
    return {tracing.HEADER: trace, **headers} if trace else headers


def dump_parts(payload: Any, headers: Mapping[str, Any]) -> dict[str, str]:
    """Return both as JSON text. Raises MessageRefused for what JSON cannot hold, or what is too large."""
    try:
        texts = {"payload": dump_json(payload), "headers": dump_json(dict(headers))}
    except ValueError as error:
        raise MessageRefused(f"payload: {error}") from error
    size_bytes = sum(len(text.encode()) for text in texts.values())
    if size_bytes > MAX_PAYLOAD_BYTES:
        raise MessageRefused(
            f"payload and headers have {size_bytes} bytes, the limit is {MAX_PAYLOAD_BYTES}",
            "keep the bulk elsewhere (an agent's state, a fact) and send the reference",
        )
    return texts


def look_at(values: dict[str, Any]) -> dict[str, Any]:
    return QUERIES.run("look_at_route", values)[0]


def find_refusal(values: dict[str, Any]) -> MisterSmithError:
    """Say why `send` wrote nothing: a second look, for people. The world may have changed in between."""
    return refusal_of(look_at(values), values) or MessageRefused(
        "the route changed while the message was sent", "send it again"
    )


def refusal_of(found: Mapping[str, Any], values: Mapping[str, Any]) -> MisterSmithError | None:
    """Return what is wrong with a route, given what the database knows of it; None: nothing. Pure."""
    see_agents, see_channels = "see `manage.py agents list`", "see `manage.py messages channels`"
    sender, target, channel = values["from_agent"], values["to_agent"], values["channel"]
    if sender is not None and not found["sender_is_known"]:
        return UnknownAgent(f"from_agent {sender}: no such agent", see_agents)
    if target is not None and found["target_status"] is None:
        return UnknownAgent(f"to_agent {target}: no such agent", see_agents)
    if found["target_status"] == "terminated":
        return MessageRefused(f"to_agent {target} is terminated: nobody would take it", see_agents)
    if channel is not None and found["channel_type"] is None:
        return UnknownChannel(f"{channel}: no such channel", see_channels)
    if channel is not None and not found["channel_is_active"]:
        hint = f"open it: manage.py messages channels --open {channel}"
        return MessageRefused(f"{channel}: the channel is closed", hint)
    if found["channel_type"] == "topic" and values["subject"] is None:
        return MessageRefused(f"{channel}: a topic channel's messages need a subject")
    if found["channel_type"] == "direct" and not found["has_subscribers"]:
        return MessageRefused(f"{channel}: nobody subscribed to this direct channel", see_channels)
    if not found["expiry_is_valid"]:
        return MessageRefused(
            f"expires_at={values['expires_at']}: must be in the future, at most {OPEN_DAYS} days"
        )
    return None
