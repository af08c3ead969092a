"""A page of the admin: stage a part of the data, see how it differs from today, bring it back or put it away."""

from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from operators.audit import Actor, record
from operators.confirm import ReasonForm
from pg.errors import MisterSmithError
from recovery.jobs import stage_job
from recovery.orders import reach_broker
from recovery.pages import show
from recovery.partial import apply_staged, compare_staged
from recovery.scope import read_scope
from recovery.staging import find_staged, home_session, list_staged, unstage

KINDS = [("agent", "One agent's rows"), ("table", "A table"), ("schema", "A schema")]
ABOUT = (
    "Rows come out of a backup into staging tables beside today's; nothing is changed by that. A worker does it. With a"
    " moment the base backups are brought to it, without one the newest logical backup is taken."
)


class StageForm(ReasonForm):
    kind = forms.ChoiceField(choices=KINDS, label="What")
    name = forms.CharField(max_length=200, label="Which", help_text="an agent's id, agents.state, or agents")
    time = forms.CharField(required=False, label="As of", help_text="2026-11-23T10:30:00+00:00, or empty")
    field_order = ("kind", "name", "time", "reason")


class ApplyForm(ReasonForm):
    delete_extra = forms.BooleanField(
        required=False, label="Delete extra rows", help_text="also delete today's rows that are not staged"
    )
    field_order = ("delete_extra", "reason")


def partial_page(request: HttpRequest) -> HttpResponse:
    """List what is staged, and order more."""
    require(request)
    form = StageForm(request.POST or None)
    if form.is_valid() and attempt(request, lambda: order_stage(request, form.cleaned_data)):
        messages.success(request, "Sent to the workers. It is listed below when it is staged.")
        return HttpResponseRedirect(reverse("admin:recovery_backup_partial"))
    with home_session() as session:
        found = list_staged(session)
    rows = [
        {
            "link": reverse("admin:recovery_backup_staged", args=[each.name]),
            "text": f"{each.scope}, as of {each.moment}",
        }
        for each in found
    ]
    return show(request, form, "Stage a part of the data", ABOUT, method="post", links=rows)


def order_stage(request: HttpRequest, given: dict[str, Any]) -> None:
    scope = read_scope(given["kind"], given["name"].strip())
    with transaction.atomic():
        record(Actor.of_request(request), "recovery.stage", [scope], reason=given["reason"])
        reach_broker(lambda: stage_job.delay(scope.kind, scope.name, given["time"].strip()))


def staged_page(request: HttpRequest, name: str) -> HttpResponse:
    """Show how staged rows differ from today's; bring them back, or put them away."""
    require(request)
    form = ApplyForm(request.POST or None)
    back = reverse("admin:recovery_backup_partial")
    try:
        with home_session() as session:
            staged = find_staged(session, name)
            if "put_away" in request.POST:
                unstage(session, staged)
                messages.success(request, f"Put away: {staged.scope}.")
                return HttpResponseRedirect(back)
            found = compare_staged(session, staged)
    except MisterSmithError as error:
        messages.error(request, f"{error}. {error.hint}")
        return HttpResponseRedirect(back)
    if form.is_valid():
        given, by = form.cleaned_data, Actor.of_request(request)
        if attempt(request, lambda: apply_staged(staged, by, given["reason"], given["delete_extra"])):
            messages.success(
                request, f"Brought back: {staged.scope}. What was replaced is kept beside the staged rows."
            )
            return HttpResponseRedirect(request.path)
    about = f"{staged.scope}, as of {staged.moment}, from backup {staged.backup_id}."
    return show(
        request, form, "Bring these rows back", about, method="post", differences=found, may_put_away=True
    )


def require(request: HttpRequest) -> None:
    if not request.user.has_perm("recovery.restore_rows"):
        raise PermissionDenied


def attempt(request: HttpRequest, work: Any) -> bool:
    """Do it; tell what is wrong with it, and return whether it was done."""
    try:
        work()
    except MisterSmithError as error:
        messages.error(request, f"{error}. {error.hint}")
        return False
    return True
