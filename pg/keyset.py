"""Paging by key: a page begins behind the last row of the one before, so the millionth row costs what the first does.

Source: https://use-the-index-luke.com/no-offset
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from django.core.exceptions import ValidationError
from django.db.models import Field, Model, Q, QuerySet
from django.utils import timezone

from pg.errors import Refused

Row = TypeVar("Row", bound=Model)
Texts = Sequence[str]


class WrongCursor(Refused):
    """The text names no place in the list."""


class Key(Generic[Row]):
    """The columns that order a list, none of them nullable; the primary key is added where it is not among them."""

    def __init__(self, model: type[Row], ordering: Iterable[str]) -> None:
        self.columns = [(column_of(model, name), name.startswith("-")) for name in ordering]
        if all(not column.primary_key for column, _ in self.columns):
            self.columns.append((model._meta.pk, self.columns[-1][1] if self.columns else True))
        nullable = [column.name for column, _ in self.columns if column.null]
        if nullable:
            raise TypeError(
                f"{model._meta.label} is ordered by {nullable}: NULL has no place before or behind"
            )

    def of(self, row: Row) -> list[str]:
        """Return the row's place as texts, for an address."""
        return [text_of(getattr(row, column.attname)) for column, _ in self.columns]

    def read(self, texts: Texts) -> list[Any]:
        """Return the values of a place; none for no texts. Raises WrongCursor."""
        if texts and len(texts) != len(self.columns):
            raise WrongCursor(f"a place in this list has {len(self.columns)} parts, not {len(texts)}")
        return [value_of(column, text) for (column, _), text in zip(self.columns, texts, strict=False)]

    def sort(self, rows: QuerySet[Row], backwards: bool = False) -> QuerySet[Row]:
        return rows.order_by(
            *(f"{'-' * (down != backwards)}{column.attname}" for column, down in self.columns)
        )

    def beyond(self, values: Sequence[Any], backwards: bool = False) -> Q:
        """Return the condition for the rows behind a place (backwards: before it); of none: for all rows.

        Row comparison, spelt out: PostgreSQL has it for one direction only. The bound on the first column alone is
        for its index and for partitions.
        """
        condition = Q()
        for (column, down), value in reversed(list(zip(self.columns, values, strict=True)) if values else []):
            side = "lt" if down != backwards else "gt"
            is_beyond = Q(**{f"{column.attname}__{side}": value})
            if condition:
                tied = Q(**{column.attname: value}) & condition
                is_beyond = Q(**{f"{column.attname}__{side}e": value}) & (is_beyond | tied)
            condition = is_beyond
        return condition


def column_of(model: type[Model], name: str) -> Field:
    name = name.removeprefix("-")
    return model._meta.pk if name == "pk" else model._meta.get_field(name)  # type: ignore[return-value]


def text_of(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def value_of(column: Field, text: str) -> Any:
    try:
        if "\0" in text:
            raise ValueError("has a NUL")
        value = column.to_python(text)
    except (ValidationError, ValueError, OverflowError) as error:
        raise WrongCursor(f"{text[:60]!r} is no {column.verbose_name}") from error
    return timezone.make_aware(value) if isinstance(value, datetime) and timezone.is_naive(value) else value


@dataclass(frozen=True)
class Page(Generic[Row]):
    """Some rows in the list's order. `before`, `after`: the place that the neighbouring page ends or begins at, None
    where there is none."""

    rows: list[Row]
    before: list[str] | None
    after: list[str] | None


def read_page(
    rows: QuerySet[Row], key: Key[Row], size: int, after: Texts | None = None, before: Texts | None = None
) -> Page[Row]:
    """Return up to `size` rows: behind the place `after`, before the place `before` (no texts: the last page), or the
    first ones. One query, two where fewer than `size` come before. Raises WrongCursor."""
    backwards, place = before is not None, list(before or after or ())
    beyond = key.beyond(key.read(place), backwards)
    found = list(key.sort(rows.filter(beyond) if beyond else rows, backwards)[: size + 1])
    has_more, found = len(found) > size, found[:size]
    if not backwards:
        return Page(found, *places(key, found, place, has_previous=bool(place), has_next=has_more))
    if place and len(found) < size:  # the first page is a full one
        return read_page(rows, key, size)
    found.reverse()
    return Page(found, *places(key, found, place, has_previous=has_more, has_next=bool(place)))


def places(
    key: Key[Row], found: list[Row], place: list[str], has_previous: bool, has_next: bool
) -> tuple[list[str] | None, list[str] | None]:
    """An empty page (its rows have gone) still leads back to what came before it."""
    first, last = (key.of(found[0]), key.of(found[-1])) if found else (place, place)
    return first if has_previous else None, last if has_next else None
