"""manage.py sessions: open, list, rotate, revoke, purge."""

import json
from argparse import ArgumentTypeError
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.utils import timezone

from agents.registry import find_agent
from operators.command import Answer, OperatorCommand
from sessions.errors import SessionRefused
from sessions.lifecycle import count_expired, open_session, purge_expired, revoke, revoke_all, rotate
from sessions.models import Session

ONCE = "the token is shown this once: keep it now, it is stored nowhere"


class Command(OperatorCommand):
    help = "Open sessions for agents and users, look at them, end them."

    def add_verbs(self) -> None:
        parser = self.add_verb("open", open_one, "open a session and print its token, once")
        owner = parser.add_mutually_exclusive_group(required=True)
        owner.add_argument("--agent", help="id or name")
        owner.add_argument("--user")
        parser.add_argument("--ttl-seconds", type=float, default=3600.0)
        parser.add_argument(
            "--type",
            dest="session_type",
            choices=Session.Kind.values,
            default=Session.Kind.API.value,
        )
        parser.add_argument("--permissions", type=json_object, default={}, help="JSON object")
        parser = self.add_verb("list", list_sessions, "show sessions, those that end last first")
        parser.add_argument("--agent", help="id or name")
        parser.add_argument("--user")
        parser.add_argument("--state", choices=["live", "expired", "all"], default="live")
        parser.add_argument("--limit", type=positive, default=50)
        parser = self.add_verb("rotate", rotate_one, "give a session another token and print it, once")
        parser.add_argument("session_id", type=uuid_of)
        parser.add_argument("--ttl-seconds", type=float, help="from now; without it the end stays")
        parser = self.add_verb("revoke", revoke_some, "end sessions now")
        parser.add_argument("session_ids", nargs="*", type=uuid_of, metavar="session_id")
        parser.add_argument("--agent", help="all sessions of this agent: id or name")
        parser = self.add_verb("purge", purge, "delete expired sessions")
        parser.add_argument("--dry-run", action="store_true", help="print what would be done")


# -- arguments ----------------------------------------------------------------------------------------------
def json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ArgumentTypeError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ArgumentTypeError('must be a JSON object, for instance {"scope": ["read"]}')
    return value


def uuid_of(text: str) -> UUID:
    """Read an id. The text is not repeated in the error: it may be a token that somebody took for one."""
    try:
        return UUID(text)
    except ValueError:
        raise ArgumentTypeError(
            "that is not a session id\nHINT: ids, not tokens: `manage.py sessions list`"
        ) from None


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ArgumentTypeError("must be 1 or more")
    return number


def ttl_of(seconds: float) -> timedelta:
    try:
        return timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        raise SessionRefused(f"ttl_seconds={seconds}: is not a length of time") from None


# -- verbs --------------------------------------------------------------------------------------------------
def row_of(session: Session) -> dict[str, Any]:
    return {
        "session_id": session.pk,
        "type": session.session_type,
        "agent": session.agent and session.agent.agent_name,
        "user": session.user_id,
        "last_activity": session.last_activity,
        "expires_at": session.expires_at,
        "live": session.is_live,
    }


def with_token(session: Session, token: str) -> Answer:
    return Answer(items=[{**row_of(session), "token": token}], warnings=[ONCE])


def open_one(
    agent: str | None,
    user: str | None,
    ttl_seconds: float,
    session_type: str,
    permissions: dict[str, Any],
    **_: Any,
) -> Answer:
    session, token = open_session(
        ttl_of(ttl_seconds),
        agent_id=find_agent(agent).pk if agent else None,
        user_id=user,
        session_type=session_type,
        permissions=permissions,
    )
    return with_token(session, token)


def rotate_one(session_id: UUID, ttl_seconds: float | None, **_: Any) -> Answer:
    return with_token(*rotate(session_id, None if ttl_seconds is None else ttl_of(ttl_seconds)))


def list_sessions(agent: str | None, user: str | None, state: str, limit: int, **_: Any) -> Answer:
    rows = Session.objects.select_related("agent").defer("token_digest")
    if agent:
        rows = rows.filter(agent_id=find_agent(agent).pk)
    if user:
        rows = rows.filter(user_id=user)
    if state == "live":
        rows = rows.filter(expires_at__gt=timezone.now())
    if state == "expired":
        rows = rows.filter(expires_at__lte=timezone.now())
    items = [row_of(session) for session in rows.order_by("-expires_at", "-pk")[:limit]]
    return Answer(items=items, counts={"shown": len(items)})


def revoke_some(session_ids: list[UUID], agent: str | None, **_: Any) -> Answer:
    if not session_ids and not agent:
        raise SessionRefused("nothing to revoke", "name session ids, or --agent")
    revoked = revoke(session_ids) + (revoke_all(find_agent(agent).pk) if agent else 0)
    missing = len(session_ids) - revoked if not agent else 0
    warnings = [f"{missing} were not there"] if missing > 0 else []
    return Answer(counts={"revoked": revoked}, warnings=warnings, ok=not warnings)


def purge(dry_run: bool, **_: Any) -> Answer:
    if dry_run:
        number = count_expired()["number"]
        steps = (
            [{"action": "delete", "object": f"{number} sessions", "why": "they expired"}] if number else []
        )
        return Answer(steps=steps, counts={"purged": 0})
    purged = 0
    while batch := purge_expired():
        purged += batch
    return Answer(counts={"purged": purged})
