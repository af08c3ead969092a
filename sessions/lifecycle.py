"""Open, authenticate, touch, rotate, revoke and purge sessions."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.core.validators import validate_ipv46_address
from django.db import IntegrityError, connection, transaction
from django.db.models.functions import Now
from django.utils import timezone

from agents.models import AgentStatus
from agents.registry import get_agent
from pg.json import dump_json
from pg.queries import Queries
from sessions.errors import SessionRefused, UnknownSession
from sessions.models import Session
from sessions.tokens import digest_of, id_of, is_possible, is_same, mint_token

QUERIES = Queries("sessions")
MAX_LIFE = timedelta(days=365)  # from its opening; sliding does not go beyond
TOUCH_PAUSE = timedelta(minutes=1)
COUNT_AT_MOST = 10_000


def open_session(
    ttl: timedelta,
    *,
    agent_id: UUID | None = None,
    user_id: str | None = None,
    session_type: str = Session.Kind.INTERACTIVE,
    permissions: Mapping[str, Any] | None = None,
    session_data: Mapping[str, Any] | None = None,
    ip_address: str | None = None,
    user_agent: str | None = None,
) -> tuple[Session, str]:
    """Open a session of one agent or one user that ends after `ttl`; return it and its token, shown this once.

    Raises SessionRefused (a `ttl` of zero or less or above MAX_LIFE, not exactly one owner, a terminated agent, data
    that JSON cannot hold), UnknownAgent.
    """
    check_ttl(ttl)
    if (agent_id is None) == (user_id is None) or user_id == "":
        raise SessionRefused("a session belongs to one agent or one user: give agent_id or user_id")
    if session_type not in Session.Kind.values:
        raise SessionRefused(
            f"session_type={session_type!r}: must be one of {', '.join(Session.Kind.values)}"
        )
    if user_id is not None and len(user_id) > 255:
        raise SessionRefused("user_id: must have at most 255 characters")
    if agent_id is not None and get_agent(agent_id).status == AgentStatus.TERMINATED:
        raise SessionRefused(f"agent {agent_id} is terminated", "register a new agent")
    values = {
        "agent_id": agent_id,
        "user_id": user_id,
        "session_type": str(session_type),
        "permissions": json_of("permissions", permissions),
        "session_data": json_of("session_data", session_data),
        "ip_address": checked_address(ip_address),
        "user_agent": user_agent,
        "ttl_seconds": ttl.total_seconds(),
    }
    return store("open", values)[0]


def authenticate(token: str) -> Session | None:
    """Return the live session of `token`, its agent loaded; None for any other text. One query in one hash partition.

    None too when its agent is terminated. Reads only: it never waits for who revokes, rotates or touches, and what they
    committed counts from then on.
    """
    if not is_possible(token):
        return None
    digest = digest_of(token)
    found = Session.objects.select_related("agent").filter(pk=id_of(digest), expires_at__gt=Now())
    session = found.first()
    if session is None or not is_same(bytes(session.token_digest), digest):
        return None
    if session.agent is not None and session.agent.status == AgentStatus.TERMINATED:
        return None
    return session


def touch(session: Session, slide_by: timedelta | None = None) -> bool:
    """Note that the session is in use; return False once it is gone or expired, which touching never undoes.

    Written at most once a minute, over all processes; within that minute nothing is asked and the answer is True.
    `slide_by`: let it live at least that much longer from now, up to MAX_LIFE after its opening; None: its end stays.
    """
    if timezone.now() - session.last_activity < TOUCH_PAUSE:
        return True
    values = {
        "session_id": session.pk,
        "slide_seconds": slide_by and slide_by.total_seconds(),
        "max_life_seconds": MAX_LIFE.total_seconds(),
        "pause_seconds": TOUCH_PAUSE.total_seconds(),
    }
    rows = QUERIES.run("touch", values)
    if not rows:
        return Session.objects.filter(pk=session.pk, expires_at__gt=Now()).exists()
    session.last_activity, session.expires_at = rows[0]["last_activity"], rows[0]["expires_at"]
    return True


def rotate(session_id: UUID, ttl: timedelta | None = None) -> tuple[Session, str]:
    """Give a session another token; return it, under its new id, and the token, shown this once.

    The old token is dead in the same transaction. `ttl` None: it ends when it would have. Of two at once, one wins; the
    other raises UnknownSession, as for an expired one.
    """
    if ttl is not None:
        check_ttl(ttl)
    rotated = store("rotate", {"old_id": session_id, "ttl_seconds": ttl and ttl.total_seconds()})
    if not rotated:
        raise UnknownSession(
            f"{session_id}: no open session", "see `manage.py sessions list`; open a new one"
        )
    return rotated[0]


def store(query: str, values: dict[str, Any]) -> list[tuple[Session, str]]:
    """Run a query that stores the digest of a new token; return the session and the token, nothing if it wrote none."""
    token = mint_token()
    digest = digest_of(token)
    values = {**values, "session_id": id_of(digest), "digest": digest}
    try:
        with transaction.atomic():
            return [(session, token) for session in Session.objects.raw(QUERIES.text(query), values)]
    except IntegrityError as error:
        if "active" not in str(error) or "pkey" not in str(error):
            raise
        # `from None`: the database's own message and the statement hold the digest
        raise SessionRefused("this token has a session already", "the random source repeats itself") from None


def revoke(session_ids: Iterable[UUID]) -> int:
    """End sessions now; return how many there were. Their tokens open nothing once this is committed."""
    return Session.objects.filter(pk__in=list(session_ids)).delete()[0]


def revoke_all(agent_id: UUID) -> int:
    """End every session of an agent; return how many there were."""
    return Session.objects.filter(agent_id=agent_id).delete()[0]


def purge_expired(batch: int = 1000) -> int:
    """Delete up to `batch` expired sessions and return how many. Several at once take different rows."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT sessions.purge_expired(%s)", [batch])
        return int(cursor.fetchone()[0])


def count_expired() -> dict[str, Any]:
    """Return `number` of sessions to purge, counted up to COUNT_AT_MOST, and when the `oldest` expired (or None)."""
    return QUERIES.run("count_expired", limit=COUNT_AT_MOST)[0]


def count_live() -> int:
    """Return how many sessions are open, counted up to COUNT_AT_MOST."""
    return int(QUERIES.run("count_live", limit=COUNT_AT_MOST)[0]["number"])


# -- rules --------------------------------------------------------------------------------------------------
def check_ttl(ttl: timedelta) -> None:
    if ttl <= timedelta(0):
        raise SessionRefused(f"ttl={ttl}: must be more than zero", "say for how long the session is to live")
    if ttl > MAX_LIFE:
        raise SessionRefused(f"ttl={ttl}: must be at most {MAX_LIFE.days} days")


def json_of(name: str, value: Mapping[str, Any] | None) -> str:
    try:
        return dump_json(dict(value or {}))
    except ValueError as error:
        raise SessionRefused(f"{name}: {error}") from error


def checked_address(text: str | None) -> str | None:
    try:
        if text is not None:
            validate_ipv46_address(text)
    except ValidationError as error:
        raise SessionRefused(f"ip_address={text!r}: is not an IPv4 or IPv6 address") from error
    return text
