"""Time filters for tables that are partitioned by the day in their UUIDv7 id."""

from datetime import datetime
from typing import Self

from django.db import models

from pg.uuid7 import uuid7_floor


class TimeWindowQuerySet(models.QuerySet):
    """The queryset of every model whose primary key is a UUIDv7 and whose table is partitioned by it."""

    def between(self, start: datetime | None, end: datetime | None) -> Self:
        """Return the rows whose id was made in [start, end), to the millisecond; None leaves that side open.

        Only id bounds are added, so PostgreSQL reads no partition outside them. Both moments must be aware:
        a naive one raises TypeError.
        """
        bounds: dict[str, object] = {}
        if start is not None:
            bounds["pk__gte"] = uuid7_floor(start)
        if end is not None:
            bounds["pk__lt"] = uuid7_floor(end)
        return self.filter(**bounds)
