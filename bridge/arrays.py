"""Lists as PostgreSQL reads arrays in text. A batch has eleven columns of up to 2,000 elements, and psycopg looks at
each element by itself: that took a third of the flusher's time."""

from collections.abc import Iterable, Mapping
from typing import Any

NULL = "NULL"


def to_literals(parameters: Mapping[str, object]) -> dict[str, object]:
    """Return parameters with each list as an array literal; the query says of which type (`%(keys)s::text[]`)."""
    return {
        name: to_literal(value) if isinstance(value, list) else value for name, value in parameters.items()
    }


def to_literal(values: Iterable[Any]) -> str:
    """Return the text of a one-dimensional array of texts, numbers, booleans, UUIDs, times with zone, or None."""
    return (
        "{"
        + ",".join([quote(v) if isinstance(v, str) else NULL if v is None else str(v) for v in values])
        + "}"
    )


def quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
