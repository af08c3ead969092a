"""A database session of one's own: session locks must neither end with a request nor go back to a pool."""

import contextlib
import copy
from collections.abc import Iterator, Sequence

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper


@contextlib.contextmanager
def open_session(statements: Sequence[str] = ()) -> Iterator[BaseDatabaseWrapper]:
    """Give a new session, in autocommit, after running `statements` in it; close it at the end."""
    db = connections.create_connection(DEFAULT_DB_ALIAS)
    db.settings_dict = copy.deepcopy(db.settings_dict)
    db.settings_dict["OPTIONS"].pop("pool", None)
    try:
        with db.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        yield db
    finally:
        db.close()
