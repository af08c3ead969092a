"""Statements that are run thousands of times a second: bound and prepared by the server, on Django's connection.

Django binds in the client, so PostgreSQL parses and plans each statement anew. Here it does so once per connection:
psycopg prepares what it runs for the third time. Not where DISABLE_SERVER_SIDE_CURSORS says that a pooler hands out
another session for each transaction. A statement run here is not in Django's query log.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakSet

import psycopg
from django.db import connection

from pg.arrays import Array, ArrayDumper

PREPARE_AFTER = 2
_ready: WeakSet[psycopg.Connection[Any]] = WeakSet()


def run_prepared(text: str, parameters: Sequence[Any] | Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Run one statement in the current transaction, or one of its own; return its rows, none where it returns none.

    `%s` or `%(name)s` stands for a value, and wants a cast; a list is cheapest as a `pg.arrays.Array`. Raises what
    Django's cursors raise.
    """
    connection.ensure_connection()
    connection.validate_no_broken_transaction()
    server: psycopg.Connection[Any] = connection.connection
    if server not in _ready:
        get_ready(server)
    with connection.wrap_database_errors, psycopg.Cursor(server) as cursor:
        cursor.execute(text, parameters)
        return cursor.fetchall() if cursor.description else []


def get_ready(server: psycopg.Connection[Any]) -> None:
    server.adapters.register_dumper(Array, ArrayDumper)
    if server.prepare_threshold is None and not connection.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS"):
        server.prepare_threshold = PREPARE_AFTER
    _ready.add(server)
