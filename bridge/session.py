"""A database session of one's own: session locks must neither end with a request nor go back to a pool."""

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psycopg
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from pg.arrays import Array, ArrayDumper

ONLY_WHEN_ASKED = 1 << 31  # executions after which psycopg would prepare a statement by itself
# A kept plan must do whatever the tables held when it was made, nothing perhaps: so by index, in the index's order.
# Without pruning at run time: in PostgreSQL 18.6 a nested loop over a partitioned table loses rows, or ends its backend
# by a segmentation fault, once it has looked at a row anew that another client was changing (decision 0020).
PLANS = (
    "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_bitmapscan = off;"
    " SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off; SET enable_memoize = off;"
    " SET enable_partition_pruning = off"
)


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


def keep_statements(db: BaseDatabaseWrapper) -> None:
    """Let `execute_bound` prepare what it runs: read and planned once in the session's life. Not through a pooler that
    gives each transaction another session."""
    db.connection.prepare_threshold = ONLY_WHEN_ASKED  # None, Django's own, is never
    execute(db, PLANS)


def execute_bound(
    db: BaseDatabaseWrapper, statement: str, parameters: Mapping[str, object]
) -> list[tuple[Any, ...]]:
    """Run one statement whose parameters the server binds (an `Array` in binary); return its rows. Raises what Django
    raises."""
    with db.wrap_database_errors, psycopg.Cursor(db.connection) as cursor:
        cursor.adapters.register_dumper(Array, ArrayDumper)
        cursor.execute(statement, parameters, prepare=True)
        return list(cursor.fetchall()) if cursor.description else []


@contextlib.contextmanager
def pruning(db: BaseDatabaseWrapper) -> Iterator[None]:
    """Let statements in the block look only into the leaves that a key leads to, also while they run. Only for those
    that change no row which another client could be changing meanwhile, in a transaction that they end when they fail.
    """
    execute(db, "SET LOCAL enable_partition_pruning = on")
    yield
    execute(db, "SET LOCAL enable_partition_pruning = off")
