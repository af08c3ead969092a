"""A database session of one's own: session locks must neither end with a request nor go back to a pool."""

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper


@contextlib.contextmanager
def open_session(
    statements: Sequence[str] = (), elsewhere: Mapping[str, Any] | None = None
) -> Iterator[BaseDatabaseWrapper]:
    """Give a new session, in autocommit, after running `statements` in it; close it at the end.

    `elsewhere`: settings of another server or database (HOST, NAME, ...); None: our own.
    """
    db = connections.create_connection(DEFAULT_DB_ALIAS)
    db.settings_dict = {**copy.deepcopy(db.settings_dict), **(elsewhere or {})}
    db.settings_dict["OPTIONS"].pop("pool", None)
    try:
        with db.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        yield db
    finally:
        db.close()


@contextlib.contextmanager
def transaction(
    db: BaseDatabaseWrapper, begin: str = "BEGIN", commit: str = "COMMIT", undo: str = "ROLLBACK"
) -> Iterator[None]:
    """Run the body in one transaction of a session that `open_session` gave."""
    execute(db, begin)
    try:
        yield
    except BaseException:
        with contextlib.suppress(DatabaseError):  # the session may be gone, and then so is the transaction
            execute(db, undo)
        raise
    execute(db, commit)


def savepoint(db: BaseDatabaseWrapper) -> contextlib.AbstractContextManager[None]:
    """Undo only the body when it fails, not the transaction around it."""
    return transaction(db, "SAVEPOINT part", "RELEASE part", "ROLLBACK TO part; RELEASE part")


def execute(db: BaseDatabaseWrapper, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    """Run one statement; return its rows, none where it returns none."""
    with db.cursor() as cursor:
        cursor.execute(statement, parameters)
        return list(cursor.fetchall()) if cursor.description else []
