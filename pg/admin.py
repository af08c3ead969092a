"""Admin classes for tables of millions of rows, and for history that nobody may edit.

Never use `date_hierarchy` on such a table (DISTINCT over every row); use `TimeWindowFilter`.
"""

from collections.abc import Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import admin
from django.core.paginator import Paginator
from django.db import connections
from django.db.models import Model, QuerySet
from django.db.models.expressions import Combinable
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone

from pg.querysets import ID_TOLERANCE, rows_between

if TYPE_CHECKING:  # the theme has no types; its class is Django's
    from django.contrib.admin import ModelAdmin
else:
    from unfold.admin import ModelAdmin

EXACT_LIMIT = 10_000

ESTIMATE = """
SELECT COALESCE(sum(greatest(c.reltuples, 0)), 0)::bigint
FROM pg_class c
WHERE c.relkind IN ('r', 'm')
  AND (c.oid = %(table)s::regclass OR c.oid IN (SELECT relid FROM pg_partition_tree(%(table)s::regclass)))
"""


class EstimatedPaginator(Paginator):
    """A paginator that never counts more than EXACT_LIMIT rows (or one page, if that is longer).

    `count` is the planner's estimate where nothing is filtered and the estimate is above that limit; else the
    exact count, at most the limit + 1. So it may say too much (an empty last page), but a table with more rows
    than a page never looks as if it fitted on one: Django's ChangeList would then load all of it.
    """

    @cached_property
    def count(self) -> int:
        rows = cast("QuerySet[Any]", self.object_list)
        limit = max(EXACT_LIMIT, self.per_page)
        if not rows.query.where:
            estimate = estimate_rows(rows)
            if estimate > limit:
                return estimate
        return rows.order_by()[: limit + 1].count()


def estimate_rows(rows: QuerySet[Any]) -> int:
    """Return the planner's row count of the queryset's table, summed over its partitions. One catalog query.

    Leaves that were never analyzed (reltuples -1) count as empty: the answer may be far too small.
    """
    with connections[rows.db].cursor() as cursor:
        cursor.execute(ESTIMATE, {"table": rows.model._meta.db_table})
        row = cursor.fetchone()
    return int(row[0])


class Related(NamedTuple):
    """A link from a row to rows that belong to it, of any room: models are named, not imported.

    It leads to the list of `model` ("<app label>.<model>") where `lookup` is the row's `attribute`; there is none where
    that is None.
    """

    title: str
    model: str
    lookup: str
    attribute: str = "pk"

    def url_for(self, row: Model) -> str:
        page = reverse(f"admin:{self.model.replace('.', '_')}_changelist")
        return f"{page}?{urlencode({f'{self.lookup}__exact': getattr(row, self.attribute)})}"

    def is_shown(self, request: HttpRequest, row: Model) -> bool:
        app, _, name = self.model.partition(".")
        return getattr(row, self.attribute) is not None and request.user.has_perm(f"{app}.view_{name}")


class RoomAdmin(ModelAdmin):
    """What every admin of ours has: the theme's look, and links to related rows above the form."""

    related: ClassVar[Sequence[Related]] = ()
    change_form_outer_before_template = "admin/related.html"

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Any = None,
    ) -> HttpResponse:
        context["related_links"] = self.related_links(request, obj) if obj else []
        return super().render_change_form(request, context, add, change, form_url, obj)

    def related_links(self, request: HttpRequest, row: Model) -> list[tuple[str, str]]:
        """Return title and address of each list that this user may open. No query: nothing is counted."""
        return [(link.title, link.url_for(row)) for link in self.related if link.is_shown(request, row)]


class BigTableAdmin(RoomAdmin):
    """Lists a big table newest first without counting, sorting or scanning it.

    The search box takes a pasted UUID: it is compared with each of `uuid_search_fields` in turn (one indexed query
    each), the first that finds something wins. Other text is looked up in `search_fields`, where there are any.
    """

    paginator = EstimatedPaginator
    show_full_result_count = False
    list_per_page = 50
    list_max_show_all = 200
    ordering: ClassVar[list[str | Combinable] | tuple[str | Combinable, ...]] = ("-pk",)
    sortable_by: ClassVar[list[str] | tuple[str, ...]] = ()  # a click on a column head would sort every row
    search_fields: ClassVar[list[str] | tuple[str, ...]] = ("pk",)
    search_help_text = "Paste a whole id."
    uuid_search_fields: ClassVar[list[str] | tuple[str, ...]] = ("pk",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        wanted = parse_uuid(search_term)
        if wanted is not None:
            return self._rows_of(queryset, wanted), False
        if search_term.strip() and tuple(self.get_search_fields(request)) == ("pk",):
            return queryset.none(), False
        return super().get_search_results(request, queryset, search_term)

    def _rows_of(self, queryset: QuerySet[Any], wanted: UUID) -> QuerySet[Any]:
        for field in self.uuid_search_fields:
            found = queryset.filter(**{field: wanted})
            if found.order_by().exists():
                return found
        return queryset.none()


def parse_uuid(text: str) -> UUID | None:
    """Return the UUID that `text` is, with or without hyphens and outer blanks; None for any other text."""
    try:
        return UUID(text.strip())
    except ValueError:
        return None


class ReadOnlyAdmin(RoomAdmin):
    """Rows can be looked at by whoever may view them, and changed by nobody. `exclude` hides fields."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> list[Any]:
        """Return every column, those that no form would show included, then what `readonly_fields` adds."""
        hidden = set(self.get_exclude(request, obj) or ())
        names: list[Any] = [field.name for field in self.opts.concrete_fields if field.name not in hidden]
        return names + [name for name in self.readonly_fields if name not in names]


class TimeWindowFilter(admin.SimpleListFilter):
    """Rows of the last minutes, hours or days, by bounds on the UUIDv7 primary key: other partitions are not read."""

    title = "time"
    parameter_name = "within"
    windows = {
        "15m": ("Last 15 minutes", timedelta(minutes=15)),
        "1h": ("Last hour", timedelta(hours=1)),
        "24h": ("Last 24 hours", timedelta(hours=24)),
        "7d": ("Last 7 days", timedelta(days=7)),
    }

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(key, label) for key, (label, _) in self.windows.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        window = self.windows.get(self.value() or "")
        if window is None:
            return queryset
        now = timezone.now()  # without an upper bound the partitions made ahead would be read too
        return rows_between(queryset, now - window[1], now + ID_TOLERANCE)
