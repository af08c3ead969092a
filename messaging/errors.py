"""What can go wrong with messages."""

from pg.errors import MisterSmithError, Refused


class MessagingError(MisterSmithError):
    """The root of this room's errors."""


class UnknownChannel(MessagingError):
    """No channel has this name."""


class ChannelRefused(MessagingError, Refused):
    """A channel or a subscription breaks a rule; nothing was changed."""


class MessageRefused(MessagingError, Refused):
    """A message breaks a rule, or its route leads nowhere; nothing was written."""
