"""What `manage.py tasks` reads from the command line; each raises ArgumentTypeError saying what was meant."""

from argparse import ArgumentTypeError
from datetime import datetime
from uuid import UUID

from django.utils.dateparse import parse_datetime

from tasks.enqueue import After


def uuid_of(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a UUID\nHINT: see `manage.py tasks list`") from None


def after(text: str) -> After:
    """Read "<task id>", "<task id>:data" or "<task id>:data:<name>"."""
    task_id, _, rest = text.partition(":")
    kind, _, name = rest.partition(":")
    return After(uuid_of(task_id), kind or "completion", name or None)


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ArgumentTypeError("must be 1 or more")
    return number


def rate(text: str) -> tuple[int, float]:
    """Read "100/60": 100 starts in any 60 seconds."""
    number, slash, seconds = text.partition("/")
    try:
        return int(number), float(seconds if slash else 1)
    except ValueError:
        raise ArgumentTypeError(
            f"{text!r}: must be a number, a slash and seconds, for instance 100/60"
        ) from None


def moment(text: str) -> datetime:
    """Read an ISO 8601 moment with a time zone."""
    try:
        found = parse_datetime(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error
    if found is None or found.tzinfo is None:
        raise ArgumentTypeError("must be ISO 8601 with a time zone, for instance 2026-03-01T12:00:00Z")
    return found
