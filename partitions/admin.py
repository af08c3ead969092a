from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.forms.models import model_to_dict
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.defaultfilters import filesizeformat
from django.template.response import TemplateResponse
from django.urls import path
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from kombu.exceptions import OperationalError
from unfold.widgets import UnfoldAdminTextareaWidget

from operators.audit import REASON_LENGTH, Actor, record
from operators.confirm import ReasonForm, reasoned_action
from partitions.cockpit import overview, planned
from partitions.history import entry_of
from partitions.jobs import apply_run, attach_job, release_job
from partitions.models import Archive, Mark, Policy, Run
from partitions.policies import CHANGEABLE, declared, values_of
from pg.admin import ReadOnlyAdmin, RoomAdmin

HOURLY_AHEAD_DAYS = 40


class PolicyForm(forms.ModelForm):
    """A policy, and why it is changed."""

    reason = forms.CharField(
        max_length=REASON_LENGTH,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 2}),
        help_text="Kept in the audit, beside your name.",
    )

    class Meta:
        model = Policy
        fields = CHANGEABLE

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        is_hourly = cleaned.get("partition_interval") == Policy.Interval.HOUR
        ahead = cleaned.get("make_ahead_days") or 0
        if is_hourly and ahead > HOURLY_AHEAD_DAYS:
            raise ValidationError(
                {
                    "make_ahead_days": f"{ahead} days of hourly partitions are {ahead * 24}:"
                    f" at most {HOURLY_AHEAD_DAYS} days"
                }
            )
        if cleaned.get("on_expiry") == Policy.OnExpiry.DROP and cleaned.get("keep_days") is None:
            raise ValidationError(
                {"keep_days": "what is kept for ever is never dropped: give days, or choose keep"}
            )
        return cleaned


@admin.register(Policy)
class PolicyAdmin(RoomAdmin):
    """Models declare policies, people override them: rows are neither added nor deleted here. Below the list: how each
    table's partitions lie in time. The plan has a page of its own, from which it is applied."""

    form = PolicyForm
    list_after_template = "partitions/overview.html"
    list_display = (*["table_name", *CHANGEABLE], "is_overridden", "updated_at")
    fields = ("table_name", "declared_policy", *CHANGEABLE, "is_overridden", "reason", "updated_at")
    readonly_fields = ("table_name", "declared_policy", "is_overridden", "updated_at")
    actions = ("follow_declaration",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_urls(self) -> list[Any]:
        plan = path("plan/", self.admin_site.admin_view(self.plan_view), name="partitions_policy_plan")
        return [plan, *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        shown = {"overview": overview()} if request.method == "GET" else {}
        return super().changelist_view(request, {**(extra_context or {}), **shown})

    def plan_view(self, request: HttpRequest) -> HttpResponse:
        """Show what is due and why; with a reason, let a worker do exactly that."""
        may_apply = request.user.has_perm("partitions.apply_plan")
        if not self.has_view_permission(request) or (request.method == "POST" and not may_apply):
            raise PermissionDenied
        form = ReasonForm(request.POST if request.method == "POST" else None)
        if form.is_valid():
            return self.request_run(request, form.cleaned_data["reason"])
        steps, kept, error = planned()
        context = {
            **self.admin_site.each_context(request),
            "title": "Plan of upkeep",
            "opts": self.opts,
            "steps": steps,
            "kept": kept,
            "error": error,
            "form": form,
            "may_apply": may_apply,
        }
        return TemplateResponse(request, "partitions/plan.html", context)

    def request_run(self, request: HttpRequest, reason: str) -> HttpResponse:
        """Ask a worker for the steps that the page has shown, as far as they are still due; lead to the run."""
        seen, by = set(request.POST.getlist("step")), Actor.of_request(request)
        steps = [entry_of(one) for one in planned()[0] if f"{one.action} {one.partition}" in seen]
        if not steps:
            self.message_user(request, "Nothing of it is due any more.", messages.WARNING)
            return redirect("admin:partitions_policy_plan")
        with transaction.atomic():
            run = Run.objects.create(
                status=Run.Status.REQUESTED,
                origin=Run.Origin.ADMIN,
                actor=by.name,
                reason=reason,
                steps=steps,
            )
            names = [step["object"] for step in steps]
            record(by, "partitions.apply", names, reason=reason, details={"run": str(run.pk)})
        try:
            apply_run.delay(str(run.pk))
        except OperationalError as error:
            self.message_user(request, f"The broker does not answer: {error}", messages.ERROR)
        else:
            self.message_user(request, "Sent to a worker: its steps appear here as they are done.")
        return redirect("admin:partitions_run_change", run.pk)

    @admin.display(description="Declared by its model")
    def declared_policy(self, policy: Policy) -> str:
        keeping = declared().get(policy.table_name)
        if keeping is None:
            return "nothing"
        return ", ".join(f"{name} {value}" for name, value in values_of(keeping).items())

    def save_model(self, request: HttpRequest, obj: Policy, form: Any, change: bool) -> None:
        """Save what was changed as an override, and who did it and why, in one transaction (the page's)."""
        before = model_to_dict(Policy.objects.get(pk=obj.pk), CHANGEABLE)
        obj.is_overridden = True
        super().save_model(request, obj, form, change)
        record(
            Actor.of_request(request),
            "partitions.change_policy",
            [obj.pk],
            reason=form.cleaned_data["reason"],
            details={"before": before, "after": model_to_dict(obj, CHANGEABLE)},
        )

    @reasoned_action("Follow what the model declares", permissions=["change"])
    def follow_declaration(self, request: HttpRequest, rows: QuerySet[Policy], by: Actor, reason: str) -> str:
        """Give up overrides."""
        keepings = declared()
        names = [policy.pk for policy in rows if policy.pk in keepings]
        for name in names:
            Policy.objects.filter(pk=name).update(is_overridden=False, **values_of(keepings[name]))
        record(by, "partitions.follow_declaration", names, reason=reason)
        return f"{len(names)} policies follow their models."


@admin.register(Run)
class RunAdmin(ReadOnlyAdmin):
    list_display = ("started_at", "status", "origin", "actor", "done", "took", "lock_wait", "reason")
    list_filter = ("status", "origin")
    search_fields = ("actor", "reason", "error")
    exclude = ("steps",)
    readonly_fields = ("what_was_done",)

    @admin.display
    def done(self, run: Run) -> str:
        return f"{sum(step.get('status') == 'done' for step in run.steps)} of {len(run.steps)}"

    @admin.display
    def took(self, run: Run) -> str:
        return f"{(run.finished_at - run.started_at).total_seconds():.1f} s" if run.finished_at else "-"

    @admin.display(description="Waited for locks")
    def lock_wait(self, run: Run) -> str:
        return f"{run.lock_wait_ms} ms"

    @admin.display(description="Steps")
    def what_was_done(self, run: Run) -> SafeString | str:
        rows = [
            (
                step["action"],
                step["object"],
                step["why"],
                step.get("status", "not tried"),
                f"{step.get('seconds', 0)} s, {step.get('lock_wait_ms', 0)} ms in line",
                step.get("error", ""),
            )
            for step in run.steps
        ]
        if not rows:
            return "nothing was to do"
        return format_html_join("", "<p><b>{} {}</b>: {}. {} ({}) {}</p>", rows)


@admin.register(Archive)
class ArchiveAdmin(ReadOnlyAdmin):
    list_display = (
        "partition_name",
        "lower_time",
        "upper_time",
        "state",
        "row_count",
        "size",
        "is_dropped",
        "attached_as",
        "uploaded_to",
    )
    list_filter = ("table_name", "state")
    list_select_related = ("mark",)
    search_fields = ("partition_name", "location")
    actions = ("attach", "release")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Archive]:
        return super().get_queryset(request).select_related("mark")

    @admin.display(ordering="size_bytes")
    def size(self, archive: Archive) -> str:
        return filesizeformat(archive.size_bytes) if archive.size_bytes is not None else "-"

    @admin.display(boolean=True, description="Dropped")
    def is_dropped(self, archive: Archive) -> bool:
        return archive.dropped_at is not None

    @admin.display
    def attached_as(self, archive: Archive) -> str:
        mark = getattr(archive, "mark", None)
        return f"{mark.partition_name} ({mark.kind})" if mark else "-"

    def has_attach_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("partitions.attach_archive")

    @reasoned_action("Attach: bring the rows back, read-only", permissions=["attach"])
    def attach(self, request: HttpRequest, rows: QuerySet[Archive], by: Actor, reason: str) -> str:
        return self.send(request, rows, by, reason, attach_job.delay, "attach_archive")

    @reasoned_action("Release: let the rows go again", permissions=["attach"])
    def release(self, request: HttpRequest, rows: QuerySet[Archive], by: Actor, reason: str) -> str:
        return self.send(request, rows, by, reason, release_job.delay, "release_archive")

    def send(
        self,
        request: HttpRequest,
        rows: QuerySet[Archive],
        by: Actor,
        reason: str,
        delay: Callable[[str, str, str], Any],
        action: str,
    ) -> str:
        """Let a worker do it, one run per archive, and note who asked."""
        try:
            for archive in rows:
                delay(str(archive.pk), by.name, reason)
        except OperationalError as error:
            self.message_user(request, f"The broker does not answer: {error}", messages.ERROR)
        else:
            record(by, f"partitions.{action}", rows, reason=reason)
        return "Sent to a worker: what becomes of it is under Runs."


@admin.register(Mark)
class MarkAdmin(ReadOnlyAdmin):
    list_display = ("partition_name", "kind", "lower_time", "upper_time", "marked_at")
    list_filter = ("kind", "table_name")
