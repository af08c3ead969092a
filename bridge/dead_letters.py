"""Messages that cannot be applied are set apart with their error, in the transaction that did not apply them."""

import json
from collections.abc import Iterable, Sequence

from django.db import DatabaseError, DataError, IntegrityError
from django.db.backends.base.base import BaseDatabaseWrapper

from bridge.changes import Letter
from bridge.headers import SOURCE
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


SET_APART = """
SELECT subject, max(split_part(headers ->> %s, ' ', 2)::bigint) FROM bridge.dead_letters
WHERE stream = %s AND subject = ANY(%s) AND headers ->> %s ~ '^\\S+ \\d{1,18} ' GROUP BY subject
"""


def read_set_apart(db: BaseDatabaseWrapper, bucket: str, keys: Sequence[str]) -> dict[str, int]:
    """Return the keys of a bucket of which writes are set apart, with the newest revision among them."""
    prefix = f"$KV.{bucket}."
    subjects = [prefix + key for key in keys]
    found = execute(db, SET_APART, [SOURCE, f"FLUSH_{bucket}", subjects, SOURCE])
    return {subject.removeprefix(prefix): revision for subject, revision in found}


def clean(text: str) -> str:
    """Return text that PostgreSQL takes."""
    return text.replace("\x00", "\\x00").encode(errors="backslashreplace").decode()
