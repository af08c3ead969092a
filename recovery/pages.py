"""Pages of the admin: order a backup, a drill or what changes the store, and plan a restore."""

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone

from operators.audit import Actor
from operators.confirm import ReasonForm
from pg.errors import MisterSmithError
from recovery.orders import ORDERS, STORE_ORDERS, order
from recovery.pitr import plan_recovery, steps_of
from recovery.rekeying import current_key, plan_rekey
from recovery.source import open_source
from recovery.target import Target

PLACE = "DIR"
Orders = dict[str, tuple[str, Callable[[], Any]]]


class OrderForm(ReasonForm):
    what = forms.ChoiceField(label="What")
    field_order = ("what", "reason")

    def __init__(self, data: Any, orders: Orders) -> None:
        super().__init__(data)
        self.fields["what"].choices = [(name, words) for name, (words, _) in orders.items()]  # type: ignore[attr-defined]


class PlanForm(forms.Form):
    time = forms.CharField(
        required=False,
        label="To which moment",
        help_text="2026-11-23T10:30:00+00:00; empty: the newest that is archived",
    )


def order_page(request: HttpRequest) -> HttpResponse:
    """Ask what and why; send it to the workers."""
    about = "A worker does it, one at a time; what it does is in the list, drills are under restore drills."
    return take_order(request, ORDERS, "recovery.make_backup", "recovery_backup_changelist", about)


def store_page(request: HttpRequest) -> HttpResponse:
    """The same of what changes the store; says what lies there under which key."""
    return take_order(
        request, STORE_ORDERS, "recovery.repair_store", "recovery_upload_changelist", about_keys()
    )


def about_keys() -> str:
    """Return in words what is not under the first key. One query where there is a store."""
    try:
        source, groups = open_source(), plan_rekey()
    except MisterSmithError as error:
        return f"{error}. {error.hint}"
    if not groups:
        return f"All that lies in the store is encrypted with {current_key(source)}: no other key is needed."
    told = (
        f"{group.objects} objects {f'with {group.key_id}' if group.key_id else 'not at all'}"
        for group in groups
    )
    return f"The first key is {current_key(source)}; encrypted otherwise: {', '.join(told)}."


def take_order(request: HttpRequest, orders: Orders, permission: str, then: str, about: str) -> HttpResponse:
    if not request.user.has_perm(permission):
        raise PermissionDenied
    form = OrderForm(request.POST or None, orders)
    if form.is_valid():
        try:
            words = order(form.cleaned_data["what"], Actor.of_request(request), form.cleaned_data["reason"])
        except MisterSmithError as error:
            messages.error(request, f"{error}. {error.hint}")
        else:
            messages.success(
                request, f"Sent to the workers: {words}. It shows in the list when it has begun."
            )
            return HttpResponseRedirect(reverse(f"admin:{then}"))
    return show(request, form, "Send to the workers", about, method="post")


def plan_page(request: HttpRequest) -> HttpResponse:
    """Say how a restore to a moment would go, or why it cannot. Changes nothing."""
    if not request.user.has_perm("recovery.view_backup"):
        raise PermissionDenied
    form = PlanForm(request.GET if "time" in request.GET else None)
    more: dict[str, Any] = {}
    if form.is_valid():
        moment = form.cleaned_data["time"].strip()
        try:
            plan = plan_recovery(Target("time", moment) if moment else Target())
            given = f" --time {moment}" if moment else ""
            more["steps"] = steps_of(plan, PLACE)
            more["command"] = f"manage.py backup restore --target-directory {PLACE}{given}"
        except MisterSmithError as error:
            more["refused"] = f"{error}. {error.hint}"
    about = f"Which backups and how much WAL a restore takes. It is {timezone.now():%Y-%m-%d %H:%M:%S} UTC."
    return show(request, form, "Plan a restore", about, method="get", **more)


def show(request: HttpRequest, form: forms.Form, title: str, about: str, **more: Any) -> HttpResponse:
    context = {**admin.site.each_context(request), "form": form, "title": title, "about": about, **more}
    request.current_app = admin.site.name
    return TemplateResponse(request, "recovery/form.html", context)
