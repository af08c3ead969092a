"""Time filters for tables that are partitioned by the day in their UUIDv7 id."""

from datetime import datetime, timedelta
from typing import Any, Self, TypeVar

from django.db import models

from pg.uuid7 import uuid7_floor

Rows = TypeVar("Rows", bound=models.QuerySet[Any])

# how far the time in an id may be from the row's own time columns: the tables' CHECKs say so
ID_TOLERANCE = timedelta(minutes=5)


class TimeWindowQuerySet(models.QuerySet):
    """The queryset of every model whose primary key is a UUIDv7 and whose table is partitioned by it."""

    def between(self, start: datetime | None, end: datetime | None) -> Self:
        """Return the rows whose id was made in [start, end), to the millisecond; None leaves that side open.

        Only id bounds are added, so PostgreSQL reads no partition outside them. Both moments must be aware:
        a naive one raises TypeError.
        """
        return rows_between(self, start, end)


def rows_between(rows: Rows, start: datetime | None, end: datetime | None) -> Rows:
    """`TimeWindowQuerySet.between` for any queryset whose primary key is a UUIDv7."""
    bounds: dict[str, object] = {}
    if start is not None:
        bounds["pk__gte"] = uuid7_floor(start)
    if end is not None:
        bounds["pk__lt"] = uuid7_floor(end)
    return rows.filter(**bounds)
