"""Migration operations for PostgreSQL objects that Django has no words for.

The SQL of a room lies in `<room>/sql/<name>.sql`, its undoing in `<name>.down.sql`. A file is named by exactly one
migration and never edited after a release.
"""

import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations import RunSQL
from django.db.migrations.operations import CreateModel
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState


def read_sql(package: str, name: str) -> str:
    """Return the text of `<package>/sql/<name>.sql`."""
    return (resources.files(package) / "sql" / f"{name}.sql").read_text("utf-8")


class CreateSchema(Operation):
    """Create a schema; backwards it must be empty."""

    reversible = True

    def __init__(self, name: str) -> None:
        self.name = name

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        pass

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        schema_editor.execute(f"CREATE SCHEMA IF NOT EXISTS {schema_editor.quote_name(self.name)}")

    def database_backwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        schema_editor.execute(f"DROP SCHEMA IF EXISTS {schema_editor.quote_name(self.name)}")

    def describe(self) -> str:
        return f"Create schema {self.name}"


class RunSQLFile(RunSQL):
    """Run `<package>/sql/<name>.sql` forwards and `<name>.down.sql` backwards."""

    def __init__(self, package: str, name: str) -> None:
        self.package, self.name = package, name
        super().__init__(read_sql(package, name), read_sql(package, f"{name}.down"))

    def deconstruct(self) -> tuple[str, Sequence[Any], dict[str, Any]]:
        return type(self).__name__, [self.package, self.name], {}

    def describe(self) -> str:
        return f"Run {self.package}/sql/{self.name}.sql"


class RunEachStatement(RunSQLFile):
    """`RunSQLFile` for a migration with `atomic = False`: each statement on its own, as CONCURRENTLY wants it.

    A statement ends with `;` at the end of a line. What was done stays when a later one fails: write each so that
    the whole may run again (IF EXISTS).
    """

    def __init__(self, package: str, name: str) -> None:
        super().__init__(package, name)
        self.sql = split_statements(read_sql(package, name))
        self.reverse_sql = split_statements(read_sql(package, f"{name}.down"))


def split_statements(text: str) -> list[Any]:
    return [statement for statement in re.split(r";[ ]*\n", text) if statement.strip()]


class CreateTable(CreateModel):
    """Tell Django of a model whose table an SQL file creates (`sql="<package>/<name>"`).

    The table has what Django cannot say: domains, generated columns, partitions, exclusion of NULLs. A test holds
    the models against the catalog. Backwards runs the file's `.down.sql`.
    """

    serialization_expand_args = ["fields", "options", "managers"]

    def __init__(
        self, name: str, fields: Any, sql: str, options: Any = None, bases: Any = None, managers: Any = None
    ):
        self.sql = sql
        super().__init__(name, fields, options, bases, managers)

    def deconstruct(self) -> tuple[str, Sequence[Any], dict[str, Any]]:
        name, args, kwargs = super().deconstruct()
        return name, args, {**kwargs, "sql": self.sql}

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        model = to_state.apps.get_model(app_label, self.name)
        if self.allow_migrate_model(schema_editor.connection.alias, model):
            schema_editor.execute(read_sql(*self.sql.split("/")), params=None)

    def database_backwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        model = from_state.apps.get_model(app_label, self.name)
        if self.allow_migrate_model(schema_editor.connection.alias, model):
            package, name = self.sql.split("/")
            schema_editor.execute(read_sql(package, f"{name}.down"), params=None)

    def describe(self) -> str:
        return f"Create table of {self.name} from {self.sql}.sql"
