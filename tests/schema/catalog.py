"""What the tests of this folder read from the PostgreSQL catalog and from Django's registry."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.db import connection, models

ROOT = Path(__file__).parents[2]
ROOMS = [entry.split(".")[0] for entry in settings.ROOMS]


@dataclass(frozen=True)
class Column:
    name: str
    base_type: int  # oid, domains resolved
    max_length: int | None  # of varchar(n)
    is_not_null: bool
    has_default: bool
    is_generated: bool


def rows(query: str, params: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, list(params))
        return cursor.fetchall()


def room_models() -> list[type[models.Model]]:
    """Every model of the rooms that has a table of its own."""
    return [
        model
        for config in apps.get_app_configs()
        if config.name in ROOMS
        for model in config.get_models()
        if model._meta.managed and not model._meta.proxy
    ]


def name_of(model: type[models.Model]) -> str:
    """'agents.registry' for the db_table '"agents"."registry"'."""
    return model._meta.db_table.replace('"', "")


def columns_of(model: type[models.Model]) -> dict[str, Column]:
    found = rows(
        """
        WITH RECURSIVE bases AS (
          SELECT oid AS type, oid AS base, typbasetype AS next, typtypmod AS modifier FROM pg_type
          UNION ALL
          SELECT b.type, t.oid, t.typbasetype, t.typtypmod FROM bases b JOIN pg_type t ON t.oid = b.next
        )
        SELECT a.attname, b.base::bigint, CASE WHEN a.atttypmod > 4 THEN a.atttypmod - 4 END, a.attnotnull,
               a.atthasdef OR a.attidentity <> '', a.attgenerated <> ''
        FROM pg_attribute a JOIN bases b ON b.type = a.atttypid AND b.next = 0
        WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
        """,
        [model._meta.db_table],
    )
    return {row[0]: Column(*row) for row in found}


def type_oid(name: str) -> int | None:
    """Return the oid of a type as Django writes it ('varchar(255)'); None if there is no such type."""
    oid: int | None = rows("SELECT to_regtype(%s)::oid::bigint", [name])[0][0]
    return oid


def our_schemas() -> list[str]:
    found = rows(
        "SELECT nspname FROM pg_namespace WHERE nspname <> 'information_schema' AND nspname !~ '^pg_'"
    )
    return [row[0] for row in found]
