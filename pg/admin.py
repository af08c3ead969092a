"""Admin classes for tables of millions of rows, and for history that nobody may edit.

Never use `date_hierarchy` on such a table (DISTINCT over every row); use `TimeWindowFilter`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple
from urllib.parse import urlencode
from uuid import UUID

from django.apps import apps
from django.contrib import messages
from django.contrib.admin import ShowFacets
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from pg.changelist import EstimatedPaginator, KeysetChangeList
from pg.filters import TimeWindowFilter

__all__ = ["BigTableAdmin", "ReadOnlyAdmin", "Related", "RoomAdmin", "TimeWindowFilter", "parse_uuid"]

if TYPE_CHECKING:  # the theme has no types; its class is Django's
    from django.contrib.admin import ModelAdmin
else:
    from unfold.admin import ModelAdmin


class Related(NamedTuple):
    """A link from a row to rows that belong to it, of any room: models are named, not imported.

    It leads to the list of `model` ("<app label>.<model>") where `lookup` is the row's `attribute`; there is none where
    that is None, or where the model's room is left out.
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
        is_there = app in apps.app_configs and getattr(row, self.attribute) is not None
        return is_there and request.user.has_perm(f"{app}.view_{name}")


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
    """Lists a big table newest first without counting, sorting or scanning it: see pg.changelist.

    `ordering`: column names, none nullable, that an index serves. An action on all rows that match is refused above
    `across_limit` rows.

    The search box takes a pasted UUID: it is compared with each of `uuid_search_fields` in turn (one indexed query
    each), the first that finds something wins. Other text is looked up in `search_fields`, where there are any.

    `rare_filters`: parameters of filters that may match a row in a million and that no index serves; without a time
    window they list the newest week (see TimeWindowFilter).
    """

    paginator = EstimatedPaginator
    show_full_result_count = False
    list_per_page = 50
    list_max_show_all = 200
    show_facets = ShowFacets.NEVER  # each would count the table
    across_limit = 1_000
    rare_filters: ClassVar[Sequence[str]] = ()
    ordering: ClassVar[Any] = ("-pk",)
    sortable_by: ClassVar[list[str] | tuple[str, ...]] = ()  # a click on a column head would sort every row
    search_fields: ClassVar[list[str] | tuple[str, ...]] = ("pk",)
    search_help_text = "Paste a whole id."
    uuid_search_fields: ClassVar[list[str] | tuple[str, ...]] = ("pk",)

    def get_rare_filters(self, request: HttpRequest) -> Sequence[str]:
        return self.rare_filters

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[KeysetChangeList]:
        return KeysetChangeList

    def response_action(  # type: ignore[override]
        self, request: HttpRequest, queryset: QuerySet[Any]
    ) -> HttpResponse | None:
        across = request.POST.get("select_across") == "1"
        if across and queryset.order_by()[: self.across_limit + 1].count() > self.across_limit:
            text = f"More than {self.across_limit:,} rows match, none was changed: narrow the list down by filters."
            self.message_user(request, text, messages.ERROR)
            return None
        return super().response_action(request, queryset)

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
