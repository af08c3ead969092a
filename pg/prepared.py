"""Statements that are run thousands of times a second: bound and prepared by the server, on Django's connection.

Django binds in the client, so PostgreSQL parses and plans each statement anew. Here it does so once per connection:
psycopg prepares what it runs for the third time. Not where DISABLE_SERVER_SIDE_CURSORS says that a pooler hands out
another session for each transaction. A statement run here is not in Django's query log.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from pg.arrays import Array, ArrayDumper

PREPARE_AFTER = 2
# of each of Django's connections the cursor that it keeps: making one takes as long as running a short statement
_cursors: WeakKeyDictionary[BaseDatabaseWrapper, psycopg.Cursor[Any]] = WeakKeyDictionary()


def run_prepared(text: str, parameters: Sequence[Any] | Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Run one statement in the current transaction, or one of its own; return its rows, none where it returns none.

    `%s` or `%(name)s` stands for a value, and wants a cast; a list is cheapest as a `pg.arrays.Array`. Raises what
    Django's cursors raise.
    """
    db = connections[DEFAULT_DB_ALIAS]  # each look through `django.db.connection` would find it anew
    cursor = cursor_of_server(db)
    with db.wrap_database_errors:
        cursor.execute(text, parameters)
        result = cursor.pgresult
        return cursor.fetchall() if result is not None and result.nfields else []


def cursor_of_server(db: BaseDatabaseWrapper) -> psycopg.Cursor[Any]:
    """Return the cursor of Django's connection that binds in the server. Raises what Django's cursors raise before they
    run something."""
    db.validate_no_broken_transaction()
    cursor = _cursors.get(db)
    if cursor is None or cursor.connection is not db.connection:
        db.ensure_connection()
        cursor = _cursors[db] = psycopg.Cursor(get_ready(db))
    return cursor


def get_ready(db: BaseDatabaseWrapper) -> psycopg.Connection[Any]:
    server: psycopg.Connection[Any] = db.connection
    server.adapters.register_dumper(Array, ArrayDumper)
    if server.prepare_threshold is None and not db.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS"):
        server.prepare_threshold = PREPARE_AFTER
    return server
