"""Messages that cannot be applied are set apart with their error, in the transaction that did not apply them."""

import json
from collections.abc import Iterable

from django.db import DatabaseError, DataError, IntegrityError
from django.db.backends.base.base import BaseDatabaseWrapper

from bridge.changes import Letter
from bridge.session import execute

# SQLSTATE classes of what is wrong with the message itself: data, constraints, limits of the server
POISON = ("22", "23", "54")
ERROR_LENGTH = 2_000

INSERT = """
INSERT INTO bridge.dead_letters AS d (
  consumer, stream, stream_epoch, stream_sequence, subject, headers, payload, stored_at, error, attempts)
SELECT %s, %s, %s, %s, %s, %s::jsonb, %s, %s, %s, %s
ON CONFLICT ON CONSTRAINT one_letter_per_message DO UPDATE
SET error = EXCLUDED.error, attempts = d.attempts + 1, last_failed_at = now()
"""


def is_poison(error: DatabaseError) -> bool:
    """Tell whether the message is to blame: the same one would fail for ever. False: the server, or the moment."""
    sqlstate = getattr(error.__cause__, "sqlstate", None)
    if sqlstate is None:
        return isinstance(error, DataError | IntegrityError)
    return str(sqlstate)[:2] in POISON


def bury(db: BaseDatabaseWrapper, consumer: str, stream: str, errors: Iterable[tuple[Letter, str]]) -> None:
    """Set messages apart. One that is there already counts one attempt more."""
    for letter, error in errors:
        execute(
            db,
            INSERT,
            [
                consumer,
                stream,
                letter.epoch,
                letter.sequence,
                clean(letter.subject),
                json.dumps({clean(name): clean(value) for name, value in letter.headers.items()}),
                letter.data,
                letter.stored_at,
                clean(error)[:ERROR_LENGTH] or "no reason given",
                letter.deliveries,
            ],
        )


def clean(text: str) -> str:
    """Return text that PostgreSQL takes."""
    return text.replace("\x00", "\\x00").encode(errors="backslashreplace").decode()
