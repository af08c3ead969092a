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
RECENT, ALL = "7d", "all"
PLACE = {"after", "before", "o", "within", *SIDES}  # of an address: what says nothing of the rows' contents


class TimeWindowFilter(admin.SimpleListFilter):
    """Rows of the last minutes, hours or days, or `from` one moment `to` another (the end is left out).

    The bounds are on the UUIDv7 primary key, so other partitions are not read. Moments are ISO 8601, in UTC where they
    name no zone; one that cannot be read lists nothing, and says so.

    Without a window all rows are listed, but for filters that an admin's `rare_filters` names: they are looked for in
    the newest week unless `within=all` asks for more, because no index finds a value that one row in a million has.
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
        others = {name for name, values in request.GET.lists() if name not in PLACE and any(values)}
        rare = set(model_admin.get_rare_filters(request))
        self.is_rare = bool(others) and others <= rare
        self.window = self.value() or (RECENT if self.is_rare else "")

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
            "selected": self.window not in self.windows and not is_own,
            "query_string": changelist.get_query_string(
                {**cleared, self.parameter_name: ALL if self.is_rare else None}
            ),
            "display": "All",
        }
        for key, label in self.lookup_choices:
            yield {
                "selected": self.window == key and not is_own,
                "query_string": changelist.get_query_string({**cleared, self.parameter_name: key}),
                "display": label,
            }

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if any(self.sides.values()):
            return self.own_window(request, queryset)
        window = self.windows.get(self.window)
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
