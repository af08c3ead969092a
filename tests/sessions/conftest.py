"""Sessions that are opened in one line, and expired ones."""

from datetime import timedelta

from django.db import connection
from django.utils import timezone

from sessions.lifecycle import open_session
from sessions.models import Session

HOUR = timedelta(hours=1)


def open_one(ttl=HOUR, **owner):
    """Open a session; return its token and its id."""
    session, token = open_session(ttl, **(owner or {"user_id": "user"}))
    return token, session.pk


def open_expired(**owner):
    token, session_id = open_one(**owner)
    moment = timezone.now() - 2 * HOUR
    Session.objects.filter(pk=session_id).update(created_at=moment, expires_at=moment + HOUR)
    return token, session_id


def everything_stored():
    with connection.cursor() as cursor:
        cursor.execute("SELECT active::text FROM sessions.active")
        return "\n".join(row[0] for row in cursor.fetchall())
