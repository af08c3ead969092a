"""All the locks of a migration at once, before its first change, so that it never waits for one while it holds others.

A migration that changes `bridge.outbox` and then wants `agents.state`, while a writer has `agents.state` and wants the
outbox, is a deadlock; PostgreSQL ends whichever of the two has waited for `deadlock_timeout` first, and that may be the
writer. So nobody here waits that long: each try lasts at most half of it, then all locks are given back, everybody
passes, and it is tried again. No order of the tables has to be known, that of the writers is merely the quickest.
"""

import random
import time
from collections.abc import Mapping
from typing import Any

from django.db import DatabaseError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState

from pg.errors import Refused

# what stops writers, the weaker first: each stops whatever those before it stop
MODES = ("SHARE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE", "ACCESS EXCLUSIVE")
FIRST_TRY_MS = 20
PATIENCE_SECONDS = 30
PAUSE_SECONDS = (0.05, 0.3)
# lock_not_available, query_canceled (statement_timeout), deadlock_detected
NOT_NOW = ("55P03", "57014", "40P01")
LOCK_HINT = (
    "run `manage.py prepare` again; if that does not help, end the oldest transaction in pg_stat_activity"
)


class LockTables(Operation):
    """Lock what the migration is going to change, as its first operation: `LockTables({"agents.state": "SHARE ROW
    EXCLUSIVE", "bridge.outbox": "ACCESS EXCLUSIVE"})`, in the order in which statements of clients come to them.

    The mode is the strongest that the migration needs: ACCESS EXCLUSIVE for ALTER TABLE, DROP INDEX and DROP TRIGGER,
    SHARE ROW EXCLUSIVE for CREATE TRIGGER and for what a new foreign key points to, SHARE for CREATE INDEX. Partitions
    are locked with their table. Backwards it does nothing: migrations are undone in development only.

    Raises Refused when the locks were not to be had for PATIENCE_SECONDS; nothing is changed then.
    """

    reversible = True
    reduces_to_sql = True

    def __init__(self, tables: Mapping[str, str]) -> None:
        self.tables = dict(tables)

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        pass

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        if schema_editor.collect_sql:
            schema_editor.execute(lock_statement(self.tables), params=None)
        else:
            lock_tables(schema_editor.connection, self.tables)

    def database_backwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        pass

    def describe(self) -> str:
        return f"Lock {', '.join(self.tables)}"


def lock_tables(
    connection: BaseDatabaseWrapper, tables: Mapping[str, str], patience_seconds: float = PATIENCE_SECONDS
) -> None:
    """Take these locks (table: mode) together, in a transaction that holds no other. Raises Refused."""
    if not connection.in_atomic_block:
        raise transaction.TransactionManagementError("locks end with their transaction: there is none")
    deadline, longest_ms = time.monotonic() + patience_seconds, longest_try_ms(connection)
    try_ms = min(FIRST_TRY_MS, longest_ms)
    while not try_to_lock(connection, tables, try_ms):
        if time.monotonic() > deadline:
            raise Refused(
                f"running work holds {', '.join(tables)} all the time: nothing was changed", LOCK_HINT
            )
        time.sleep(random.uniform(*PAUSE_SECONDS))  # noqa: S311  jitter, not a secret
        try_ms = min(2 * try_ms, longest_ms)


def longest_try_ms(connection: BaseDatabaseWrapper) -> int:
    """Half of deadlock_timeout: a client that came to wait for us is let through before it looks for a deadlock."""
    return int(ask(connection, "SELECT setting FROM pg_settings WHERE name = 'deadlock_timeout'")) // 2


def try_to_lock(connection: BaseDatabaseWrapper, tables: Mapping[str, str], limit_ms: int) -> bool:
    """Tell whether all locks were there within `limit_ms`; otherwise none is held."""
    before = ask(connection, "SELECT current_setting('statement_timeout')")
    try:
        with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
            set_timeout(cursor, f"{limit_ms}ms")
            cursor.execute(lock_statement(tables))
            set_timeout(cursor, before)
    except DatabaseError as error:
        if getattr(error.__cause__, "sqlstate", None) not in NOT_NOW:
            raise
        return False
    return True


def lock_statement(tables: Mapping[str, str]) -> str:
    """One statement, for statement_timeout counts each on its own. The words are a migration's, never a user's."""
    locks = "; ".join(f"LOCK TABLE {table} IN {mode} MODE" for table, mode in tables.items())
    return f"DO $$ BEGIN {locks}; END $$"


def set_timeout(cursor: Any, value: str) -> None:
    cursor.execute("SELECT set_config('statement_timeout', %s, true)", [value])


def ask(connection: BaseDatabaseWrapper, query: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]
