"""Alarms that rooms declare; the rows are added after each migrate. What an operator changed or switched off stays. A
deleted row comes back with the next migrate: switch it off instead."""

from typing import Any

from django.db import connections

_declared: dict[str, dict[str, Any]] = {}


def declare_alarm(name: str, metric: str, **fields: Any) -> None:
    """Declare a rule, or replace the one of that name; `fields` are those of `monitoring.models.AlarmRule`."""
    _declared[name] = {"metric": metric, **fields}


def install_alarms(using: str = "default", **_: Any) -> int:
    """Add the rows that are missing; return how many. Connected to post_migrate; running twice is safe."""
    from monitoring.models import AlarmRule

    with connections[using].cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s)", [AlarmRule._meta.db_table])
        if cursor.fetchone()[0] is None:  # migrated backwards
            return 0
    rules = [AlarmRule(name=name, **fields) for name, fields in sorted(_declared.items())]
    known = set(AlarmRule.objects.using(using).values_list("name", flat=True))
    AlarmRule.objects.using(using).bulk_create(rules, ignore_conflicts=True)
    return len(_declared.keys() - known)
