"""Django's PostgreSQL backend with our pools: ENGINE = "pg.backend". Its own keys in DATABASES: see config/pools.py."""

from functools import cached_property
from typing import Any

from django.conf import settings
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.postgresql import base
from django.utils.asyncio import async_unsafe
from psycopg import IsolationLevel

from pg import reads
from pg.opener import Opener, guard
from pg.pool import Pool, check, note_single, pools, tell_opened

ASSUME_ROLE = (
    "SELECT set_config('role', rolname, false) FROM pg_roles"
    " WHERE rolname = %s AND pg_has_role(current_user, oid, 'MEMBER')"
)


class DatabaseWrapper(base.DatabaseWrapper):
    """Connections that go to the primary, or only read; from a pool where OPTIONS has one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.is_read_only and getattr(settings, "REPLICA_ALIASES", []):
            self.execute_wrappers.append(reads.note_writes)
        elif self.is_read_only and not self.settings_dict.get("IS_SHARED"):
            self.execute_wrappers.append(reads.note_failures)

    @property
    def is_read_only(self) -> bool:
        return bool(self.settings_dict.get("IS_READ_ONLY"))

    @cached_property
    def opener(self) -> Opener:
        return Opener(not self.is_read_only, bool(self.settings_dict.get("MUST_LEAD")))

    @property
    def pool(self) -> Pool | None:
        options = self.settings_dict["OPTIONS"].get("pool")
        if self.alias == NO_DB_ALIAS or not options:
            return None
        if self.alias not in pools():
            pools().setdefault(self.alias, self.make_pool(options))  # of two threads the first one's stays
        return pools()[self.alias]

    def make_pool(self, options: dict[str, Any]) -> Pool:
        return Pool(
            self.opener,
            kwargs={
                **self.get_connection_params(),
                "autocommit": True,
            },  # Django sets it as it likes later on
            configure=self._configure_connection,
            check=check if self.settings_dict["CONN_HEALTH_CHECKS"] else None,
            **options,
        )

    def close_pool(self) -> None:
        if pool := pools().pop(self.alias, None):
            pool.close()

    @async_unsafe
    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        self.isolation_level = IsolationLevel.READ_COMMITTED
        if (pool := self.pool) is None:
            connection = self.opener.connect(**conn_params)
            note_single(self.alias, connection)
            return connection
        if pool.closed:
            pool.open()
            tell_opened()
        return pool.getconn()

    def _configure_connection(self, connection: Any) -> bool:
        has_changed = super()._configure_connection(connection)  # type: ignore[misc]  # not in the stubs
        role = self.settings_dict.get("ROLE")
        if self.is_read_only and self.settings_dict.get("IS_SHARED") and role:
            with connection.cursor() as cursor:
                cursor.execute(ASSUME_ROLE, [role])
            return True
        return bool(has_changed)

    def close_if_unusable_or_obsolete(self) -> None:
        """Also drop a connection to a server that was the primary once."""
        if self.connection is not None and not self.in_atomic_block and guard().is_outdated(self.connection):
            self.close()
            return
        super().close_if_unusable_or_obsolete()
