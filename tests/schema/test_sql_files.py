"""Every .sql file of a room belongs to exactly one migration."""

from collections import Counter

import pytest
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations import SeparateDatabaseAndState

from pg.operations import CreateTable, RunSQLFile
from tests.schema.catalog import ROOMS, ROOT


def operations_of(migrations):
    for migration in migrations:
        pending = list(migration.operations)
        while pending:
            operation = pending.pop()
            if isinstance(operation, SeparateDatabaseAndState):
                pending += operation.database_operations
            else:
                yield operation


def named_files():
    loader = MigrationLoader(None)
    for operation in operations_of(loader.disk_migrations.values()):
        if isinstance(operation, RunSQLFile):
            yield f"{operation.package}/{operation.name}"
        elif isinstance(operation, CreateTable):
            yield operation.sql


def files_on_disk():
    for room in ROOMS:
        for path in (ROOT / room / "sql").glob("[0-9]*.sql"):
            if not path.name.endswith(".down.sql"):
                yield f"{room}/{path.stem}"


def test_every_sql_file_is_named_by_exactly_one_migration():
    counts = Counter(named_files())
    assert sorted(counts) == sorted(files_on_disk()), (
        "a migration names each NNNN_name.sql; remove what none names"
    )
    assert set(counts.values()) == {1}, [name for name, count in counts.items() if count > 1]


@pytest.mark.parametrize("name", sorted(files_on_disk()))
def test_every_sql_file_can_be_undone(name):
    room, stem = name.split("/")
    down = ROOT / room / "sql" / f"{stem}.down.sql"
    assert down.is_file(), f"write {down.relative_to(ROOT)}"


def test_every_down_file_undoes_something():
    for room in ROOMS:
        for path in (ROOT / room / "sql").glob("*.down.sql"):
            assert path.with_name(path.name.replace(".down.sql", ".sql")).is_file(), path.relative_to(ROOT)
