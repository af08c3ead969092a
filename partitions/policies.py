"""Policies that models declare, as rows that operators may override."""

from typing import Any

from django.apps import apps
from django.db import connections

from partitions.catalog import quoted
from partitions.declare import Keeping
from partitions.models import Policy

CHANGEABLE = ("partition_interval", "make_ahead_days", "keep_days", "on_expiry")


def declared() -> dict[str, Keeping]:
    """Return what models say of their time-partitioned tables, by "schema.table"."""
    found = {}
    for model in apps.get_models():
        keeping = getattr(getattr(model, "partitioning", None), "keeping", None)
        if keeping is not None:
            found[table_name(model._meta.db_table)] = keeping
    return dict(sorted(found.items()))


def table_name(db_table: str) -> str:
    """Return "schema.table" of a db_table, which is '"schema"."table"' or a name in public."""
    name = db_table.replace('"', "")
    return name if "." in name else f"public.{name}"


def values_of(keeping: Keeping) -> dict[str, Any]:
    """Return the columns of a policy that says so."""
    return {
        "partition_interval": keeping.interval,
        "make_ahead_days": keeping.make_ahead_days,
        "keep_days": keeping.keep_days,
        "on_expiry": keeping.on_expiry,
    }


def install_policies(using: str = "default", **_: Any) -> int:
    """Let every policy that nobody has overridden say what its model declares; return how many were new or changed.

    Connected to post_migrate of this room; running twice is safe. Does nothing for tables that are not there (yet), nor
    where this room was migrated back.
    """
    if not is_installed(using):
        return 0
    known = Policy.objects.using(using).in_bulk()
    return sum(
        install(using, name, values_of(keeping), known.get(name))
        for name, keeping in declared().items()
        if exists(using, name)
    )


def install(using: str, name: str, values: dict[str, Any], policy: Policy | None) -> bool:
    rows = Policy.objects.using(using)
    if policy is None:
        return rows.get_or_create(table_name=name, defaults=values)[1]
    if policy.is_overridden or all(getattr(policy, field) == value for field, value in values.items()):
        return False
    return bool(rows.filter(pk=name, is_overridden=False).update(**values))


def is_installed(using: str) -> bool:
    with connections[using].cursor() as cursor:
        cursor.execute(
            "SELECT count(*) > 0 FROM pg_attribute"
            " WHERE attrelid = to_regclass('partitions.policies') AND attname = 'is_overridden' AND NOT attisdropped"
        )
        return bool(cursor.fetchone()[0])


def exists(using: str, name: str) -> bool:
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [quoted(name)])
        return bool(cursor.fetchone()[0])
