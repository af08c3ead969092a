"""What each migration locked, noted while the run's template is made, so that no test has to migrate again."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.db.migrations import Migration
from django.db.migrations.operations.base import Operation

from pg.locks import MODES

TABLES = "SELECT oid FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace <> 'pg_catalog'::regnamespace"
HELD = """
SELECT relation::regclass::text, mode FROM pg_locks
WHERE pid = pg_backend_pid() AND locktype = 'relation' AND relation = ANY (%s)
"""
Locks = dict[str, str]


@dataclass
class Noted:
    """The strongest mode that stops writers, by table: after the first operation, and at the end. Only tables that were
    there before count, with their partitions: nobody else sees the others yet."""

    migration: str
    first: Locks = field(default_factory=dict)
    last: Locks = field(default_factory=dict)


@contextmanager
def noting_locks() -> Iterator[None]:
    """Note what each migration of the block locks; `read_notes` returns it, in every process of the run."""
    seen: list[Noted] = []
    apply = Migration.apply

    def apply_and_look(self: Migration, state: Any, editor: Any, collect_sql: bool = False) -> Any:
        tables, noted = [row[0] for row in ask(TABLES)], Noted(f"{self.app_label}.{self.name}")
        first, *rest = self.operations or [Look(tables, noted.last)]
        self.operations = [first, Look(tables, noted.first), *rest, Look(tables, noted.last)]
        try:
            return apply(self, state, editor, collect_sql)
        finally:
            self.operations = [first, *rest]
            seen.append(noted)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Migration, "apply", apply_and_look)
        yield
    notes_file().write_text(json.dumps([asdict(noted) for noted in seen]))


def read_notes() -> list[Noted]:
    return [Noted(**noted) for noted in json.loads(notes_file().read_text())]


def notes_file() -> Path:
    return Path(os.environ["MISTERSMITH_HOME"]) / "migration_locks.json"


class Look(Operation):
    """Note the locks that are held now."""

    reversible = False

    def __init__(self, tables: list[int], held: Locks) -> None:
        self.tables, self.held = tables, held

    def state_forwards(self, app_label: str, state: Any) -> None:
        pass

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        found = [(table, mode_name(mode)) for table, mode in ask(HELD, self.tables)]
        for table, mode in sorted((one for one in found if one[1] in MODES), key=lambda one: rank(one[1])):
            self.held[table] = mode


def mode_name(mode: str) -> str:
    """'SHARE ROW EXCLUSIVE' for the catalog's 'ShareRowExclusiveLock'."""
    words = "".join(f" {letter}" if letter.isupper() else letter for letter in mode.removesuffix("Lock"))
    return words.strip().upper()


def rank(mode: str | None) -> int:
    return MODES.index(mode) if mode else -1


def ask(query: str, *params: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(query, list(params))
        return cursor.fetchall()
