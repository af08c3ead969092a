"""The migration operation for natively partitioned tables."""

from collections.abc import Sequence
from typing import Any

from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import ProjectState

from partitions.declare import Partitioning
from pg.errors import MisterSmithError
from pg.operations import CreateTable

STRATEGIES = {"r": "range", "l": "list", "h": "hash"}


class WrongPartitioning(MisterSmithError):
    """The SQL file made another kind of table than the migration declares."""


class CreatePartitionedTable(CreateTable):
    """`CreateTable` for a table whose SQL file says PARTITION BY; `partitioning` declares how.

    The catalog is compared with the declaration before anything else happens, so that a file and its migration
    cannot drift apart. Hash leaves are made here (`<table>_0` to `<table>_<modulus - 1>`, fillfactor 80 for HOT
    updates); time and list leaves belong to the partition functions.
    """

    serialization_expand_args = ["fields", "options", "managers"]

    def __init__(
        self,
        name: str,
        fields: Any,
        sql: str,
        strategy: str,
        key: str,
        modulus: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.partitioning = Partitioning(strategy, key, modulus)  # type: ignore[arg-type]
        super().__init__(name, fields, sql, **kwargs)

    def deconstruct(self) -> tuple[str, Sequence[Any], dict[str, Any]]:
        name, args, kwargs = super().deconstruct()
        how = {"strategy": self.partitioning.strategy, "key": self.partitioning.key}
        if self.partitioning.modulus is not None:
            how["modulus"] = self.partitioning.modulus  # type: ignore[assignment]
        return name, args, {**kwargs, **how}

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        super().database_forwards(app_label, schema_editor, from_state, to_state)
        table = to_state.apps.get_model(app_label, self.name)._meta.db_table
        compare_with_catalog(schema_editor, table, self.partitioning)
        for remainder in range(self.partitioning.modulus or 0):
            schema_editor.execute(
                hash_leaf_sql(table, self.partitioning.modulus or 0, remainder), params=None
            )

    def describe(self) -> str:
        return f"Create table of {self.name}, partitioned by {self.partitioning.strategy} of {self.partitioning.key}"


def compare_with_catalog(schema_editor: BaseDatabaseSchemaEditor, table: str, declared: Partitioning) -> None:
    """Raise WrongPartitioning unless `table` has the declared strategy and one-column key. One catalog query."""
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(
            "SELECT t.partstrat, a.attname FROM pg_partitioned_table t"
            " JOIN pg_attribute a ON a.attrelid = t.partrelid AND a.attnum = t.partattrs[0]"
            " WHERE t.partrelid = %s::regclass AND t.partnatts = 1",
            [table],
        )
        row = cursor.fetchone()
    found = (STRATEGIES[row[0]], row[1]) if row else None
    if found != (declared.strategy, declared.key):
        raise WrongPartitioning(
            f"{table} is partitioned by {found}, declared {declared.strategy} of {declared.key}"
        )


def hash_leaf_sql(table: str, modulus: int, remainder: int) -> str:
    """Return the DDL of one hash leaf. `table` is a quoted name: '"agents"."state"'."""
    return (
        f'CREATE TABLE {table.removesuffix(chr(34))}_{remainder}" PARTITION OF {table}'
        f" FOR VALUES WITH (MODULUS {modulus}, REMAINDER {remainder}) WITH (fillfactor = 80)"
    )
