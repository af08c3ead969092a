"""A statement whose way through the client counts as much as what it does: handed to libpq as the protocol has it.

psycopg's cursor looks at the query, at each value and at each column anew: half of what a worker spends on a short
task. Here the caller gives the values as the server reads them, and the session keeps the statement. Not in Django's
query log.
"""

import re
import threading
from collections.abc import Sequence
from functools import lru_cache
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors, generators, pq
from psycopg.adapt import Transformer
from psycopg.pq.abc import PGconn, PGresult

FATAL, SQLSTATE = pq.ExecStatus.FATAL_ERROR, pq.DiagnosticField.SQLSTATE
UNKNOWN_STATEMENT = b"26000"
MOST_KEPT = 100  # statements of a session, as psycopg has it; those that come later are planned each time
NAMED = re.compile(r"%\((\w+)\)s")
_names: WeakKeyDictionary[psycopg.Connection[Any], dict[str, bytes]] = WeakKeyDictionary()
_numbers = count(1)


class _Loading(threading.local):
    def __init__(self) -> None:
        self.transformer = Transformer()  # remembers how columns are loaded


_loading = _Loading()


def run_direct(
    text: str, values: Sequence[bytes | None], format: pq.Format = pq.Format.BINARY
) -> list[tuple[Any, ...]]:
    """Run one statement in the current transaction, or one of its own; return its rows, as psycopg loads them.

    `$1`, `$2` ... stand for `values`, each in the binary format of its type (`pg.arrays`) or all in text, and want a
    cast. Prepared once per connection where it is a transaction of its own, unless DISABLE_SERVER_SIDE_CURSORS says
    that a pooler hands out another session for each. Raises what Django's cursors raise.
    """
    db = connections[DEFAULT_DB_ALIAS]
    db.ensure_connection()
    db.validate_no_broken_transaction()
    with db.wrap_database_errors:
        return load(execute(db, text, values, [format] * len(values)))


def execute(
    db: BaseDatabaseWrapper, text: str, values: Sequence[bytes | None], formats: Sequence[int]
) -> PGresult:
    server: psycopg.Connection[Any] = db.connection
    link: PGconn = server.pgconn
    is_idle = link.transaction_status == pq.TransactionStatus.IDLE
    if is_idle and not server.autocommit:
        server.execute("SELECT")  # begins the transaction as psycopg does
    is_kept = is_idle and server.autocommit and not db.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS")
    with server.lock:
        name = name_of(server, text) if is_kept else None
        if name is None:
            link.send_query_params(text.encode(), values, None, formats)
            return wait_for(server)
        link.send_query_prepared(name, values, formats)
        result = wait_for(server)
        if result.status == FATAL and result.error_field(SQLSTATE) == UNKNOWN_STATEMENT:
            # psycopg has the session forget all statements where it prepared one itself and something was dropped or
            # rolled back: the server says so before it does anything. In a transaction that would be too late.
            del _names[server]
            link.send_query_prepared(name_of(server, text) or b"", values, formats)
            result = wait_for(server)
        return result


def wait_for(server: psycopg.Connection[Any]) -> PGresult:
    """Wait as psycopg does: Ctrl-C is heard, and cancels the statement."""
    results: list[PGresult] = server.wait(generators.execute(server.pgconn))
    return results[-1]


def name_of(server: psycopg.Connection[Any], text: str) -> bytes | None:
    """Return the name under which this session keeps the statement; None: it keeps MOST_KEPT others."""
    names = _names.get(server)
    if names is None:
        names = _names[server] = {}
    if text not in names and len(names) < MOST_KEPT:
        name = b"direct_%d" % next(_numbers)
        server.pgconn.send_prepare(name, text.encode())
        require_success(wait_for(server))
        names[text] = name
    return names.get(text)


def load(result: PGresult) -> list[tuple[Any, ...]]:
    require_success(result)
    if not result.ntuples:
        return []
    transformer = _loading.transformer
    transformer.set_pgresult(result)
    return transformer.load_rows(0, result.ntuples, tuple)


def require_success(result: PGresult) -> None:
    """Raise psycopg's error where the server refused, or went away before it answered."""
    if result.status == FATAL:
        if result.error_field(SQLSTATE) is None:
            raise errors.OperationalError(result.get_error_message())
        raise errors.error_from_result(result)


@lru_cache(MOST_KEPT)
def numbered(text: str) -> tuple[str, list[str]]:
    """Return a statement with `$1`, `$2` ... in place of each `%(name)s`, and the names in that order."""
    names: list[str] = []

    def number(found: re.Match[str]) -> str:
        names.append(found[1])
        return f"${len(names)}"

    return NAMED.sub(number, text), names
