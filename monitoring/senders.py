"""Sends notifications. Delivery is at least once: what was sent when its note could not be committed is sent again, and
carries the same `event_id`."""

import json
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from email.utils import parseaddr
from typing import Any
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from django.conf import settings
from django.core.mail import send_mail
from django.db import transaction

from monitoring.models import AlarmChannel, AlarmEvent, Notification
from pg.errors import Refused

SEND_SECONDS = 5
LAST_ATTEMPT = 8  # after about an hour
FIRST_WAIT = timedelta(seconds=15)
Send = Callable[[str, dict[str, Any]], None]  # target, body
_senders: dict[str, Send] = {}


def register_sender(kind: str, send: Send) -> None:
    """Add a way to send, or replace the one of that kind. `send` raises whatever went wrong."""
    _senders[kind] = send


def send_due(now: datetime) -> int:
    """Send one notification that is due; return 1, or 0 when there is none.

    Safe twice, late or beside itself: the row is locked while it is sent.
    """
    with transaction.atomic():
        due = Notification.objects.select_for_update(skip_locked=True)
        note = due.filter(status=Notification.Status.PENDING, next_at__lte=now).order_by("next_at").first()
        if note is None:
            return 0
        note.attempts += 1
        try:
            send_to(note.channel, body_of(note.event))
        except Exception as error:  # a channel that fails must not keep the others from being served
            postpone(note, f"{type(error).__name__}: {error}".strip(), now)
        else:
            note.status, note.sent_at, note.error = Notification.Status.SENT, now, ""
        note.save()
    return 1


def postpone(note: Notification, error: str, now: datetime) -> None:
    note.error = error
    note.next_at = now + FIRST_WAIT * 2 ** (note.attempts - 1)
    if note.attempts >= LAST_ATTEMPT:
        note.status = Notification.Status.FAILED


def send_to(channel: AlarmChannel, body: dict[str, Any]) -> None:
    """Raises Refused for a kind that nobody registered, or whatever the sender raises."""
    if channel.kind not in _senders:
        raise Refused(f"{channel.kind}: no such kind of channel", f"known: {', '.join(sorted(_senders))}")
    _senders[channel.kind](resolve(channel.target), body)


def resolve(target: str) -> str:
    """Return the target; `env:NAME` is looked up in the environment, where secrets belong. Raises Refused."""
    if not target.startswith("env:"):
        return target
    name = target.removeprefix("env:")
    if not (value := os.environ.get(name)):
        raise Refused(f"{target}: {name} is not set", "set it where the workers run")
    return value


def body_of(event: AlarmEvent) -> dict[str, Any]:
    """Return what is sent: JSON, the same for every kind."""
    rule = event.rule
    return {
        "event_id": event.pk,
        "alarm": rule.name,
        "from": event.from_state,
        "to": event.to_state,
        "value": event.value,
        "metric": rule.metric,
        "labels": rule.labels,
        "thresholds": {"direction": rule.direction, "warning": rule.warning, "critical": rule.critical},
        "description": rule.description,
        "hint": rule.hint,
        "happened_at": event.happened_at.isoformat(),
    }


# -- the ways to send that need no server of ours -------------------------------------------------------------
class NoRedirect(HTTPRedirectHandler):
    """A webhook answers where it is asked; it may not send us elsewhere."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def send_webhook(url: str, body: dict[str, Any]) -> None:
    """POST the body as JSON. Raises Refused for another scheme, OSError when it was not taken."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise Refused(
            "the webhook's URL does not begin with http:// or https://", "correct the channel's target"
        )
    request = Request(  # noqa: S310  (the scheme was checked)
        url, json.dumps(body).encode(), {"Content-Type": "application/json", "User-Agent": "mister-smith"}
    )
    with build_opener(NoRedirect).open(request, timeout=SEND_SECONDS):
        pass


def send_email(address: str, body: dict[str, Any]) -> None:
    """Send through the server that EMAIL_URL names. Raises Refused or smtplib's errors."""
    if "@" not in parseaddr(address)[1]:
        raise Refused(f"{address}: not an e-mail address", "correct the channel's target")
    lines = [f"{name}: {value}" for name, value in body.items() if value not in ("", None, {})]
    subject = f"[{body['to']}] {body['alarm']}"
    send_mail(subject, "\n".join(lines), settings.DEFAULT_FROM_EMAIL, [address])


def register() -> None:
    register_sender("webhook", send_webhook)
    register_sender("email", send_email)
