"""A statement whose way through the client counts as much as what it does: handed to libpq as the protocol has it.

psycopg's cursor looks at the query, at each value and at each column anew, and waits so that Ctrl-C is heard: half of
what a worker spends on a short task. Here the caller gives the values in binary, the session keeps the statement, and
libpq waits: only for statements that wait for nobody (SKIP LOCKED). Not in Django's query log.
"""

import threading
from collections.abc import Sequence
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors, pq
from psycopg.adapt import Transformer
from psycopg.pq.abc import PGconn, PGresult

FATAL, SQLSTATE = pq.ExecStatus.FATAL_ERROR, pq.DiagnosticField.SQLSTATE
UNKNOWN_STATEMENT = b"26000"
_names: WeakKeyDictionary[psycopg.Connection[Any], dict[str, bytes]] = WeakKeyDictionary()
_numbers = count(1)


class _Loading(threading.local):
    def __init__(self) -> None:
        self.transformer = Transformer()  # remembers how columns are loaded


_loading = _Loading()


def run_direct(text: str, values: Sequence[bytes]) -> list[tuple[Any, ...]]:
    """Run one statement in the current transaction, or one of its own; return its rows, as psycopg loads them.

    `$1`, `$2` ... stand for `values`, each in the binary format of its type (`pg.arrays`), and want a cast. Prepared
    once per connection where it is a transaction of its own, unless DISABLE_SERVER_SIDE_CURSORS says that a pooler
    hands out another session for each. Raises what Django's cursors raise.
    """
    db = connections[DEFAULT_DB_ALIAS]
    db.ensure_connection()
    db.validate_no_broken_transaction()
    with db.wrap_database_errors:
        return load(execute(db, text, values))


def execute(db: BaseDatabaseWrapper, text: str, values: Sequence[bytes]) -> PGresult:
    server: psycopg.Connection[Any] = db.connection
    link: PGconn = server.pgconn
    is_idle = link.transaction_status == pq.TransactionStatus.IDLE
    if is_idle and not server.autocommit:
        server.execute("SELECT")  # begins the transaction as psycopg does
    binary = [pq.Format.BINARY] * len(values)
    with server.lock:
        if is_idle and server.autocommit and not db.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS"):
            return execute_kept(server, text, values, binary)
        return link.exec_params(text.encode(), values, None, binary)


def execute_kept(
    server: psycopg.Connection[Any], text: str, values: Sequence[bytes], formats: Sequence[int]
) -> PGresult:
    """psycopg has the session forget all statements where it prepared one itself and something was dropped or rolled
    back: then it says so before it does anything, and is asked again. In a transaction that would be too late."""
    result = server.pgconn.exec_prepared(name_of(server, text), values, formats)
    if result.status == FATAL and result.error_field(SQLSTATE) == UNKNOWN_STATEMENT:
        del _names[server]
        result = server.pgconn.exec_prepared(name_of(server, text), values, formats)
    return result


def name_of(server: psycopg.Connection[Any], text: str) -> bytes:
    """Return the name under which this session keeps the statement."""
    names = _names.get(server)
    if names is None:
        names = _names[server] = {}
    if text not in names:
        name = b"direct_%d" % next(_numbers)
        require_success(server.pgconn.prepare(name, text.encode()))
        names[text] = name
    return names[text]


def load(result: PGresult) -> list[tuple[Any, ...]]:
    require_success(result)
    transformer = _loading.transformer
    transformer.set_pgresult(result)
    return transformer.load_rows(0, result.ntuples, tuple)


def require_success(result: PGresult) -> None:
    """Raise psycopg's error where the server refused, or went away before it answered."""
    if result.status == FATAL:
        if result.error_field(SQLSTATE) is None:
            raise errors.OperationalError(result.get_error_message())
        raise errors.error_from_result(result)
