"""Channels, and who listens to them.

| kind | a message goes to |
|---|---|
| broadcast, topic | each agent with a subscription that fits (a topic's messages must have a subject) |
| direct | the one agent that subscribed: an address that can move from agent to agent |
| queue | one of the subscribers, whichever takes it first; it waits while there is none |

A subscription fits when its pattern fits the subject (NATS wildcards: `*` is one token, a last `>` one or more) and the
payload contains its filters. `messages.subscription_matches` decides, in the database.
"""

import re
from typing import Any
from uuid import UUID

from django.db import transaction

from agents.models import AgentStatus
from agents.registry import get_agent
from messaging.errors import ChannelRefused, UnknownChannel
from messaging.models import Channel, Subscription

PATTERN = re.compile(r"((\*|[^.*>\s]+)\.)*(\*|>|[^.*>\s]+)")
MAX_LENGTH = 255  # of names, patterns and subjects, in characters


def create_channel(
    name: str, kind: str, *, description: str = "", configuration: dict[str, Any] | None = None
) -> Channel:
    """Add a channel; return it. Where one of that name and kind exists, it is returned as it is: safe to repeat.

    Raises ChannelRefused for an unknown kind, an empty or too long name, or a name that another kind has.
    """
    if kind not in Channel.Kind.values:
        raise ChannelRefused(f"kind={kind!r}: must be one of {', '.join(Channel.Kind.values)}")
    if not 0 < len(name) <= MAX_LENGTH:
        raise ChannelRefused(f"name={name[:40]!r}: must have 1 to {MAX_LENGTH} characters")
    values = {"channel_type": kind, "description": description, "configuration": configuration or {}}
    channel, _ = Channel.objects.get_or_create(channel_name=name, defaults=values)
    if channel.channel_type != kind:
        raise ChannelRefused(
            f"{name}: is a {channel.channel_type} channel already", "choose another name: kinds never change"
        )
    return channel


def get_channel(name: str) -> Channel:
    """Return the channel; raise UnknownChannel. One query."""
    try:
        return Channel.objects.get(channel_name=name)
    except Channel.DoesNotExist:
        raise UnknownChannel(f"{name}: no such channel", "see `manage.py messages channels`") from None


def set_active(name: str, is_active: bool) -> Channel:
    """Open or close a channel; return it. A closed one refuses messages; what it carried before is still delivered."""
    channel = get_channel(name)
    if channel.is_active != is_active:
        channel.is_active = is_active
        channel.save(update_fields=["is_active"])
    return channel


def subscribe(
    agent_id: UUID, channel_name: str, *, pattern: str | None = None, filters: dict[str, Any] | None = None
) -> Subscription:
    """Let the agent listen to the channel; return the subscription. `pattern` None: to every subject.

    The same agent, channel and pattern again replaces the filters and makes it active: safe to repeat. Raises
    UnknownAgent, UnknownChannel, ChannelRefused (a bad pattern, a terminated agent, a taken direct channel).
    """
    check_pattern(pattern)
    agent, channel = get_agent(agent_id), get_channel(channel_name)
    if agent.status == AgentStatus.TERMINATED:
        raise ChannelRefused(f"{agent.agent_name} ({agent_id}) is terminated", "register a new agent")
    with transaction.atomic():
        if channel.channel_type == Channel.Kind.DIRECT:
            claim_address(channel, agent_id)
        subscription, _ = Subscription.objects.update_or_create(
            agent_id=agent_id,
            channel=channel,
            message_pattern=pattern,
            defaults={"filters": filters or {}, "is_active": True},
        )
    return subscription


def claim_address(channel: Channel, agent_id: UUID) -> None:
    """Refuse a second agent on a direct channel. Holds the channel's row until the transaction ends."""
    Channel.objects.select_for_update(no_key=True).get(pk=channel.pk)
    others = Subscription.objects.filter(channel=channel, is_active=True).exclude(agent_id=agent_id)
    holder = others.values_list("agent_id", flat=True).first()
    if holder:
        raise ChannelRefused(
            f"{channel.channel_name}: a direct channel has one subscriber, {holder}", "unsubscribe it first"
        )


def unsubscribe(agent_id: UUID, channel_name: str, *, pattern: str | None = None) -> int:
    """End the agent's subscription of that pattern, or all of the channel for None; return how many there were.

    What was sent to the agent before stays in its inbox.
    """
    mine = Subscription.objects.filter(agent_id=agent_id, channel=get_channel(channel_name))
    if pattern is not None:
        mine = mine.filter(message_pattern=pattern)
    return mine.delete()[0]


def check_pattern(pattern: str | None) -> None:
    """Raise ChannelRefused for a pattern that no subject could be meant by; None is one that fits all."""
    if pattern is None or (len(pattern) <= MAX_LENGTH and PATTERN.fullmatch(pattern)):
        return
    raise ChannelRefused(
        f"pattern={pattern[:40]!r}: must be tokens with dots between, at most {MAX_LENGTH} characters",
        "`*` stands for one whole token, `>` at the end for the rest: `orders.*.paid`, `orders.>`",
    )
