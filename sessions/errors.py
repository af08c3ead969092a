"""What can go wrong with sessions."""

from pg.errors import MisterSmithError, Refused


class SessionError(MisterSmithError):
    """The root of this room's errors."""


class SessionRefused(SessionError, Refused):
    """A session breaks a rule; nothing was opened."""


class UnknownSession(SessionError):
    """No open session has this id: it never was, expired, was revoked or got another token."""
