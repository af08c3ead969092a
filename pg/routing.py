"""Django's database router: writes to the primary, reads to where the code that runs asks for (see `pg.reads`)."""

from typing import Any

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections

from pg import reads
from pg.replicas import replicas
from pg.watch import ensure_watch

# who somebody is and what he may must be true now; the server's own views say what the server asked does
PRIMARY_ONLY = frozenset(
    {"auth", "contenttypes", "sessions", "django_celery_beat", "monitoring", "operators"}
)


class Router:
    """A decision asks no server, save once after a write: how far a replica must be to show it."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        where = reads.where()
        if where == reads.PRIMARY or model._meta.app_label in PRIMARY_ONLY:
            return DEFAULT_DB_ALIAS
        if connections[DEFAULT_DB_ALIAS].in_atomic_block:
            return DEFAULT_DB_ALIAS
        if where == reads.ANALYTICS:
            return str(settings.ANALYTICS_ALIAS)
        return self.choose_replica()

    def choose_replica(self) -> str:
        if not settings.REPLICA_ALIASES:
            return DEFAULT_DB_ALIAS
        ensure_watch()
        return replicas().choose(reads.needed_lsn()) or DEFAULT_DB_ALIAS

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return DEFAULT_DB_ALIAS

    def allow_relation(self, one: Any, other: Any, **hints: Any) -> bool:
        """All aliases hold the same rows."""
        return True

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return db == DEFAULT_DB_ALIAS
