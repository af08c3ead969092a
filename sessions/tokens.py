"""Tokens and the sessions that they open. The database keeps a digest; a lost token cannot be shown again."""

import secrets
from datetime import timedelta
from uuid import UUID

from django.db import connection

from agents.models import Agent
from pg.errors import Refused
from sessions.models import Session

TOKEN_BYTES = 32


def open_session(
    ttl: timedelta,
    agent: Agent | None = None,
    user_id: str | None = None,
    session_type: str = Session.Kind.INTERACTIVE,
) -> tuple[str, UUID]:
    """Open a session that ends after `ttl`; return its new token, shown this once, and its id.

    Raises Refused for a `ttl` of zero or less.
    """
    if ttl <= timedelta(0):
        raise Refused(f"ttl={ttl}: must be more than zero", "say for how long the session is to live")
    token = secrets.token_urlsafe(TOKEN_BYTES)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT sessions.open_session(%s, make_interval(secs => %s), %s, %s, %s)",
            [token, ttl.total_seconds(), agent.pk if agent else None, user_id, session_type],
        )
        return token, cursor.fetchone()[0]


def authenticate(token: str) -> Session | None:
    """Return the live session of `token`; None for an unknown or expired one. One query in one hash partition."""
    found: list[Session] = list(Session.objects.raw("SELECT * FROM sessions.authenticate(%s)", [token]))
    return found[0] if found else None


def purge_expired(batch: int = 1000) -> int:
    """Delete up to `batch` expired sessions and return how many. Several at once take different rows."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT sessions.purge_expired(%s)", [batch])
        return int(cursor.fetchone()[0])
