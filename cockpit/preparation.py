"""What must be so before the processes start: schema, static files, administrator, partitions, streams.

Each step may run twice and beside itself: it does only what is missing.
"""

import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command
from django.db import DatabaseError, OperationalError, connection
from django.db.migrations.executor import MigrationExecutor
from psycopg.errors import LockNotAvailable

from cockpit.administrator import ensure_administrator
from cockpit.database_roles import apply_roles, existing_roles
from cockpit.vitals import ask_broker, ask_nats
from pg.demands import require_fit_server
from pg.errors import Refused
from pg.locks import LOCK_HINT

LOCK_TIMEOUT_MS = 5_000
Done = dict[str, Any]
DEMANDS: dict[str, Callable[[], Any]] = {
    "DATABASE_URL": lambda: require_fit_server(connection),
    "NATS_URL": ask_nats,
    "CELERY_BROKER_URL": ask_broker,
}


def steps() -> list[tuple[str, Callable[[], Done]]]:
    """Return the steps in their order; each returns what it did as `detail`, and what else is to be told."""
    return [
        ("servers", check_servers),
        ("schema", migrate),
        ("roles", grant_rights),
        ("static files", collect_static),
        ("administrator", make_administrator),
        ("partitions", make_partitions),
        ("streams", set_up_bridge),
    ]


def check_servers(variables: Iterable[str] = tuple(DEMANDS)) -> Done:
    """Reach the servers that the variables name, before anything is changed. Raises Unreachable, Refused."""
    for variable in variables:
        DEMANDS[variable]()
    return {"detail": "PostgreSQL, NATS and the broker answer"}


def migrate() -> Done:
    """Apply what is missing. Raises Refused where running work holds a lock for too long; everybody else would queue
    behind a migration that waits. Each migration is a transaction: what is done stays, the next call goes on."""
    count = len(unapplied_migrations())
    if count:
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
        try:
            call_command("migrate", verbosity=0, interactive=False)
        except OperationalError as error:
            if not isinstance(error.__cause__, LockNotAvailable):
                raise
            raise Refused(f"a migration did not get its lock: {error.__cause__}", LOCK_HINT) from error
        finally:
            reset_lock_timeout()
    return {"detail": f"{count} migrations applied" if count else "up to date"}


def grant_rights() -> Done:
    """Give the four database roles, where they are there, their rights on what the migrations made."""
    if not existing_roles():
        return {"detail": "one role does everything"}
    done, refused = apply_roles()
    told = f"{len(done)} steps" if done else "up to date"
    return {"detail": told + (f", {len(refused)} refused: run `manage.py roles plan`" if refused else "")}


def reset_lock_timeout() -> None:
    """A connection that broke meanwhile has nothing to put back."""
    with suppress(DatabaseError), connection.cursor() as cursor:
        cursor.execute("RESET lock_timeout")


def unapplied_migrations() -> list[str]:
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return [f"{migration.app_label}.{migration.name}" for migration, _ in plan]


def collect_static() -> Done:
    """Collect when a file has changed since the last time."""
    stamp, wanted = Path(settings.STATIC_ROOT) / ".stamp", static_fingerprint()
    if stamp.is_file() and stamp.read_text() == wanted:
        return {"detail": "up to date"}
    call_command("collectstatic", verbosity=0, interactive=False)
    stamp.write_text(wanted)
    return {"detail": "collected"}


def static_fingerprint() -> str:
    """Return a digest of path, size and time of every static file, and of how they are stored."""
    digest = hashlib.sha256(repr(settings.STORAGES).encode())
    for finder in get_finders():
        for path, storage in finder.list([]):
            found = Path(storage.path(path)).stat()
            digest.update(f"{path} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def make_administrator() -> Done:
    password = ensure_administrator(settings.ADMIN_USER)
    return {
        "detail": f"user {settings.ADMIN_USER} made" if password else "there already",
        "password": password,
    }


def make_partitions() -> Done:
    call_command("partitions", "apply", "--create-only", stdout=StringIO())
    return {"detail": "made ahead"}


def set_up_bridge() -> Done:
    call_command("bridge", "setup", stdout=StringIO())
    return {"detail": "there"}
