"""Queries of more than a few lines: `<room>/sql/queries.sql`, each under a heading `-- name: <name>`."""

import re
from collections.abc import Mapping
from functools import cached_property, lru_cache
from string import Template
from typing import Any

from django.db import connection

from pg.operations import read_sql

KEPT_TEXTS = 500  # with their `$name`s filled in
HEADING = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


class Queries:
    """The named queries of one room. Values are bound (`%(name)s`); `$name` stands for text that the caller vouches
    for: a quoted table name, a literal number."""

    def __init__(self, room: str) -> None:
        self.room = room
        self._fill = lru_cache(KEPT_TEXTS)(self._text)

    def run(
        self, name: str, parameters: Mapping[str, Any] | None = None, **texts: Any
    ) -> list[dict[str, Any]]:
        """Run a query; return its rows as dicts, none where it returns none. One round trip."""
        with connection.cursor() as cursor:
            cursor.execute(self.text(name, **texts), parameters or {})
            if cursor.description is None:
                return []
            columns = [column.name for column in cursor.description]
            return [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]

    def text(self, name: str, **texts: Any) -> str:
        """Return the SQL of a query with its `$name`s filled in. Raises KeyError for an unknown query or `$name`."""
        return self._fill(name, **texts)

    def _text(self, name: str, **texts: Any) -> str:
        if name not in self._known:
            raise KeyError(f"{self.room}/sql/queries.sql has no query {name!r}, only {sorted(self._known)}")
        found = self._known[name]
        return Template(found).substitute(texts) if texts else found

    @cached_property
    def _known(self) -> dict[str, str]:
        _, *parts = HEADING.split(read_sql(self.room, "queries"))
        return {name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}
