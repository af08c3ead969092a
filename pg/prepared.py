"""Statements that are run thousands of times a second: bound and prepared by the server, on Django's connection.

Django binds in the client, so PostgreSQL parses and plans each statement anew. Here it does so once per connection:
psycopg prepares what it runs for the third time. Not where DISABLE_SERVER_SIDE_CURSORS says that a pooler hands out
another session for each transaction. A statement run here is not in Django's query log.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import psycopg
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from pg.arrays import Array, ArrayDumper

PREPARE_AFTER = 2
_ready: WeakSet[psycopg.Connection[Any]] = WeakSet()


def run_prepared(text: str, parameters: Sequence[Any] | Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Run one statement in the current transaction, or one of its own; return its rows, none where it returns none.

    `%s` or `%(name)s` stands for a value, and wants a cast; a list is cheapest as a `pg.arrays.Array`. Raises what
    Django's cursors raise.
    """
    with cursor_of_server() as cursor:
        cursor.execute(text, parameters)
        result = cursor.pgresult
        return cursor.fetchall() if result is not None and result.nfields else []


@contextmanager
def cursor_of_server() -> Iterator[psycopg.Cursor[Any]]:
    """Give a cursor that binds in the server; errors are turned into Django's."""
    db = connections[DEFAULT_DB_ALIAS]  # each look through `django.db.connection` would find it anew
    db.ensure_connection()
    db.validate_no_broken_transaction()
    server: psycopg.Connection[Any] = db.connection
    if server not in _ready:
        get_ready(db, server)
    with db.wrap_database_errors, psycopg.Cursor(server) as cursor:
        yield cursor


def get_ready(db: BaseDatabaseWrapper, server: psycopg.Connection[Any]) -> None:
    server.adapters.register_dumper(Array, ArrayDumper)
    if server.prepare_threshold is None and not db.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS"):
        server.prepare_threshold = PREPARE_AFTER
    _ready.add(server)
