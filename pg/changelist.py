"""The admin's list of a big table: counted by estimate, paged by key, never read as a whole."""

from functools import cached_property
from typing import Any, cast

from django.contrib import messages
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db import connections
from django.db.models import QuerySet
from django.http import HttpRequest

from pg.keyset import Key, Page, WrongCursor, read_page

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
    than a page never looks as if it fitted on one: Django's ChangeList would then load all of it. `count_text` says
    what kind of number it is.
    """

    count_text = ""
    template_name = "admin/keyset_pages.html"

    @cached_property
    def count(self) -> int:
        rows = cast("QuerySet[Any]", self.object_list)
        limit = max(EXACT_LIMIT, self.per_page)
        if not rows.query.where:
            estimate = estimate_rows(rows)
            if estimate > limit:
                self.count_text = f"about {estimate:,}"
                return estimate
        counted = rows.order_by()[: limit + 1].count()
        self.count_text = f"more than {limit:,}" if counted > limit else f"{counted:,}"
        return counted


def estimate_rows(rows: QuerySet[Any]) -> int:
    """Return the planner's row count of the queryset's table, summed over its partitions. One catalog query.

    Leaves that were never analyzed (reltuples -1) count as empty: the answer may be far too small.
    """
    with connections[rows.db].cursor() as cursor:
        cursor.execute(ESTIMATE, {"table": rows.model._meta.db_table})
        row = cursor.fetchone()
    return int(row[0])


class KeysetChangeList(ChangeList):
    """Django's list with pages by key: `?after=` and `?before=` a row's key, `?before=` alone for the last page.

    `first_url`, `previous_url`, `next_url`, `last_url`: None where they would lead nowhere. A place that cannot be read
    shows the first page and says so. The place is no filter: an action on all rows that match takes those of other
    pages too.
    """

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        for name in ("after", "before", "o"):  # before the filters look at them
            self.params.pop(name, None)
            self.filter_params.pop(name, None)
        return super().get_queryset(request, exclude_parameters)

    def get_results(self, request: HttpRequest) -> None:
        """Never Django's own: with a count of at most one page it takes every row."""
        page = self.read_page(request)
        self.result_list = page.rows
        self.first_url = self.url() if page.before else None
        self.previous_url = self.url(before=page.before) if page.before else None
        self.next_url = self.url(after=page.after) if page.after else None
        self.last_url = self.url(before="") if page.after else None
        self.paginator = self.model_admin.get_paginator(request, self.queryset, self.list_per_page)
        if not page.before and not page.after:  # it is all on this page: nothing to count
            self.paginator.count, self.paginator.count_text = len(page.rows), f"{len(page.rows):,}"
        self.result_count = max(self.paginator.count, len(page.rows))
        self.full_result_count = self.result_count  # else the title would count again
        self.show_full_result_count = False
        self.across_limit: int = self.model_admin.across_limit  # type: ignore[attr-defined]
        self.show_admin_actions = True
        self.can_show_all = self.multi_page = False

    def read_page(self, request: HttpRequest) -> Page[Any]:
        key = Key(self.model, cast("list[str]", self.model_admin.ordering))
        after, before = (
            [text for text in request.GET.getlist(name) if text] if name in request.GET else None
            for name in ("after", "before")
        )
        try:
            return read_page(self.queryset, key, self.list_per_page, after, before)
        except WrongCursor as error:
            text = f"The address names no place in this list: {error}. This is its first page."
            self.model_admin.message_user(request, text, messages.WARNING, fail_silently=True)
            return read_page(self.queryset, key, self.list_per_page)

    def url(self, **place: list[str] | str | None) -> str:
        return self.get_query_string(place)
