"""Windows of time as bounds on a UUIDv7 primary key."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from pg.querysets import ID_TOLERANCE, rows_between

SIDES = ("from", "to")


class TimeWindowFilter(admin.SimpleListFilter):
    """Rows of the last minutes, hours or days, or `from` one moment `to` another (the end is left out).

    The bounds are on the UUIDv7 primary key, so other partitions are not read. Moments are ISO 8601, in UTC where they
    name no zone; one that cannot be read lists nothing, and says so.
    """

    title = "time"
    parameter_name = "within"
    template = "admin/time_filter.html"
    windows = {
        "15m": ("Last 15 minutes", timedelta(minutes=15)),
        "1h": ("Last hour", timedelta(hours=1)),
        "24h": ("Last 24 hours", timedelta(hours=24)),
        "7d": ("Last 7 days", timedelta(days=7)),
    }

    def __init__(
        self, request: HttpRequest, params: dict[str, list[str]], model: Any, model_admin: Any
    ) -> None:
        super().__init__(request, params, model, model_admin)
        self.sides = {name: params.pop(name, [""])[-1] for name in SIDES}

    def expected_parameters(self) -> list[str | None]:
        return [self.parameter_name, *SIDES]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(key, label) for key, (label, _) in self.windows.items()]

    def choices(self, changelist: Any) -> Iterator[Any]:
        """Also note, for the template's form, what it has to keep of the address."""
        mine = self.expected_parameters()
        self.kept = [
            (name, value)
            for name, values in changelist.filter_params.items()
            if name not in mine
            for value in values
        ]
        cleared = dict.fromkeys(SIDES)
        is_own = any(self.sides.values())
        yield {
            "selected": self.value() is None and not is_own,
            "query_string": changelist.get_query_string({**cleared, self.parameter_name: None}),
            "display": "All",
        }
        for key, label in self.lookup_choices:
            yield {
                "selected": self.value() == key and not is_own,
                "query_string": changelist.get_query_string({**cleared, self.parameter_name: key}),
                "display": label,
            }

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if any(self.sides.values()):
            return self.own_window(request, queryset)
        window = self.windows.get(self.value() or "")
        if window is None:
            return queryset
        now = timezone.now()  # without an upper bound the partitions made ahead would be read too
        return rows_between(queryset, now - window[1], now + ID_TOLERANCE)

    def own_window(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        try:
            start, end = (read_moment(name, self.sides[name]) for name in SIDES)
            if start and end and start >= end:
                raise ValueError("from must be before to")
            return rows_between(queryset, start, end)
        except (ValueError, OverflowError) as error:
            messages.warning(request, f"Time: {error}. Nothing is listed.", fail_silently=True)
            return queryset.none()


def read_moment(name: str, text: str) -> datetime | None:
    """Return the moment, in UTC where it names no zone; None for no text. Raises ValueError."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{name}={text[:40]!r} is not a time such as 2026-03-01T12:00") from None
    return moment if timezone.is_aware(moment) else timezone.make_aware(moment)
