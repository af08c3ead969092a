"""Two pages of the admin: order a backup or a drill, and plan a restore."""

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
from recovery.orders import ORDERS, order
from recovery.pitr import Target, plan_recovery, steps_of

PLACE = "DIR"


class OrderForm(ReasonForm):
    what = forms.ChoiceField(choices=[(name, words) for name, (words, _) in ORDERS.items()], label="What")
    field_order = ("what", "reason")


class PlanForm(forms.Form):
    time = forms.CharField(
        required=False,
        label="To which moment",
        help_text="2026-11-23T10:30:00+00:00; empty: the newest that is archived",
    )


def order_page(request: HttpRequest) -> HttpResponse:
    """Ask what and why; send it to the workers."""
    if not request.user.has_perm("recovery.make_backup"):
        raise PermissionDenied
    form = OrderForm(request.POST or None)
    if form.is_valid():
        try:
            words = order(form.cleaned_data["what"], Actor.of_request(request), form.cleaned_data["reason"])
        except MisterSmithError as error:
            messages.error(request, f"{error}. {error.hint}")
        else:
            messages.success(
                request, f"Sent to the workers: {words}. It shows in the list when it has begun."
            )
            return HttpResponseRedirect(reverse("admin:recovery_backup_changelist"))
    about = "A worker does it, one at a time; what it does is in the list, drills are under restore drills."
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
