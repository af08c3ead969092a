"""What the schema demands of a PostgreSQL server, looked at before a migration changes anything."""

from typing import Any

from django.apps import apps
from django.core.management.base import CommandError
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from pg.errors import Refused

MINIMUM_MAJOR = 15
EXTENSIONS = {"vector": "pgvector"}  # name in PostgreSQL, name of the project
NEEDED_BY = {"vector": "knowledge"}  # the room that the setting MISTERSMITH_<ROOM> leaves out


def refuse_unfit_server(using: str, **kwargs: Any) -> None:
    """Stop `migrate` (signal pre_migrate) with one clear error and exit code 2."""
    try:
        require_fit_server(connections[using])
    except Refused as error:
        raise CommandError(f"{error}\nHINT: {error.hint}", returncode=2) from error


def require_fit_server(connection: BaseDatabaseWrapper) -> None:
    """Raise Refused when the server is too old or lacks an extension that can't be created either."""
    major = server_major(connection)
    if major < MINIMUM_MAJOR:
        raise Refused(
            f"PostgreSQL {major} is too old: {MINIMUM_MAJOR} or newer is needed",
            "upgrade the server, or unset DATABASE_URL to use the embedded one",
        )
    for name, project in demanded_extensions().items():
        require_extension(connection, name, project, major)


def demanded_extensions() -> dict[str, str]:
    """Return the extensions that the installed rooms need, with the projects that they come from."""
    return {name: project for name, project in EXTENSIONS.items() if apps.is_installed(NEEDED_BY[name])}


def server_major(connection: BaseDatabaseWrapper) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('server_version_num')::int / 10000")
        return int(cursor.fetchone()[0])


def require_extension(connection: BaseDatabaseWrapper, name: str, project: str, major: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT installed_version IS NOT NULL, r.rolsuper,"
            " (SELECT bool_or(v.trusted) FROM pg_available_extension_versions v WHERE v.name = e.name)"
            " FROM pg_available_extensions e, pg_roles r WHERE e.name = %s AND r.rolname = current_user",
            [name],
        )
        found = cursor.fetchone()
    if found is None:
        raise Refused(
            f"this PostgreSQL {major} has no extension {name} ({project})",
            f"install the package postgresql-{major}-{project} (Debian, Ubuntu) or {project}_{major} (Red Hat)"
            f" on the database server, or set MISTERSMITH_{NEEDED_BY[name].upper()}=false to go without it;"
            " nothing was changed",
        )
    installed, is_superuser, is_trusted = found
    if not (installed or is_superuser or is_trusted):
        raise Refused(
            f"extension {name} is not created, and we are no superuser",
            f"let a superuser run once in this database: CREATE EXTENSION {name}",
        )
