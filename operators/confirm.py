"""Admin actions that ask first: what will be done, to how many rows, and why.

    class TaskAdmin(ReasonedActions, BigTableAdmin):
        actions = ["cancel"]

        @reasoned_action("Cancel the selected tasks", permissions=["change"])
        def cancel(self, request, rows, by, reason):
            return f"{cancel_tasks(rows, by=by, reason=reason)} tasks cancelled."

The first click shows a page with the number of rows, some of them, and a field for the reason; the second one runs the
function, whose text is shown. The function itself records the audit, with the change, in one transaction. What it
raises as MisterSmithError is shown as an error.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from unfold.widgets import UnfoldAdminTextareaWidget

from operators.audit import REASON_LENGTH, Actor
from pg.errors import MisterSmithError

SHOWN_ROWS = 10
Run = Callable[[Any, HttpRequest, QuerySet[Any], Actor, str], str]


class ReasonForm(forms.Form):
    """Why somebody does it; blanks alone are no reason."""

    reason = forms.CharField(
        max_length=REASON_LENGTH,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        help_text="Kept in the audit, beside your name.",
    )


def reasoned_action(description: str, *, permissions: Sequence[str]) -> Callable[[Run], Any]:
    """Make an admin action of `run(self, request, rows, by, reason)`, which returns what to tell the user."""

    def decorate(run: Run) -> Any:
        @admin.action(description=description, permissions=permissions)
        @wraps(run)
        def action(self: Any, request: HttpRequest, rows: QuerySet[Any]) -> HttpResponse | None:
            form = ReasonForm(request.POST if "confirmed" in request.POST else None)
            if not form.is_valid():
                return ask_for_reason(self, request, rows, description, form)
            try:
                said = run(self, request, rows, Actor.of_request(request), form.cleaned_data["reason"])
            except MisterSmithError as error:
                self.message_user(request, f"{error}. {error.hint}".strip(), messages.ERROR)
            else:
                self.message_user(request, said)
            return None

        return action

    return decorate


def ask_for_reason(
    model_admin: Any, request: HttpRequest, rows: QuerySet[Any], title: str, form: ReasonForm
) -> HttpResponse:
    """Show the page in between; its form sends the same selection again."""
    context = {
        **model_admin.admin_site.each_context(request),
        "title": title,
        "opts": model_admin.opts,
        "form": form,
        "row_count": rows.count(),
        "rows": rows[:SHOWN_ROWS],
        "selected": request.POST.getlist(ACTION_CHECKBOX_NAME),
        "selected_name": ACTION_CHECKBOX_NAME,
        "select_across": request.POST.get("select_across", "0"),
        "action": request.POST["action"],
    }
    request.current_app = model_admin.admin_site.name
    return TemplateResponse(request, "admin/confirm.html", context)
