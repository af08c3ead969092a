"""Alarms: rules, what they did, where they are sent."""

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.decorators import display

from monitoring import server_admin  # noqa: F401  (registers its pages)
from monitoring.alarms import silence, unsilence
from monitoring.models import AlarmChannel, AlarmEvent, AlarmRule, Notification, State
from monitoring.registry import metrics
from monitoring.senders import send_to
from operators.audit import Actor, record
from operators.confirm import reasoned_action
from pg.admin import BigTableAdmin, ReadOnlyAdmin, Related, RoomAdmin

TONES = {State.OK: "success", State.WARNING: "warning", State.CRITICAL: "danger"}


class AlarmRuleForm(forms.ModelForm):
    """Says in words what the table's constraints would refuse."""

    def clean_metric(self) -> str:
        name: str = self.cleaned_data["metric"]
        if name not in (known := [metric.name for metric in metrics()]):
            raise forms.ValidationError(f"{name}: no such metric. Known: {', '.join(known)}")
        return name

    def clean_labels(self) -> dict[str, str]:
        labels = self.cleaned_data["labels"] or {}
        if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
            raise forms.ValidationError('Must be an object of texts, for instance {"pool": "web"}.')
        return labels

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        warning, critical = data.get("warning"), data.get("critical")
        if warning is None and critical is None:
            raise forms.ValidationError("Give a warning or a critical threshold, or both.")
        if warning is not None and critical is not None:
            sign = 1 if data.get("direction") == AlarmRule.Direction.ABOVE else -1
            if sign * warning > sign * critical:
                raise forms.ValidationError("The warning must come before the critical threshold.")
        for name, limit in (("clear_margin", None), ("hold_seconds", 86_400)):
            value = data.get(name)
            if value is not None and (value < 0 or (limit is not None and value > limit)):
                self.add_error(name, f"Must be 0 or more{f', at most {limit}' if limit else ''}.")
        return data


@admin.register(AlarmRule)
class AlarmRuleAdmin(RoomAdmin):
    form = AlarmRuleForm
    list_display = (
        "name",
        "shown_state",
        "value",
        "warning",
        "critical",
        "state_since",
        "silenced_until",
        "is_enabled",
    )
    list_filter = ("state", "is_enabled")
    search_fields = ("name", "metric")
    ordering = ("name",)
    readonly_fields = (
        "state",
        "state_since",
        "value",
        "problem",
        "evaluated_at",
        "silenced_until",
        "silence_reason",
    )
    related = (Related("Events", "monitoring.alarmevent", "rule"),)
    actions = ("silence_hour", "silence_day", "end_silence")

    @display(description="state", label=TONES)
    def shown_state(self, rule: AlarmRule) -> str:
        return rule.state

    @reasoned_action("Silence for an hour", permissions=["change"])
    def silence_hour(self, request: HttpRequest, rules: QuerySet[AlarmRule], by: Actor, reason: str) -> str:
        return self.silence_for(timedelta(hours=1), rules, by, reason)

    @reasoned_action("Silence for a day", permissions=["change"])
    def silence_day(self, request: HttpRequest, rules: QuerySet[AlarmRule], by: Actor, reason: str) -> str:
        return self.silence_for(timedelta(days=1), rules, by, reason)

    def silence_for(self, span: timedelta, rules: QuerySet[AlarmRule], by: Actor, reason: str) -> str:
        now = timezone.now()
        return f"{silence(rules, now + span, by=by, reason=reason, now=now)} alarms are silent for {span}."

    @reasoned_action("End the silence", permissions=["change"])
    def end_silence(self, request: HttpRequest, rules: QuerySet[AlarmRule], by: Actor, reason: str) -> str:
        return f"{unsilence(rules, by=by, reason=reason)} alarms are heard again."


@admin.register(AlarmEvent)
class AlarmEventAdmin(ReadOnlyAdmin, BigTableAdmin):
    list_display = ("happened_at", "rule", "from_state", "to_state", "value", "was_silenced")
    list_filter = ("to_state",)
    list_select_related = ("rule",)
    search_fields = ("=rule__name",)
    search_help_text = "The whole name of an alarm."
    uuid_search_fields = ()
    related = (Related("Notifications", "monitoring.notification", "event"),)


@admin.register(AlarmChannel)
class AlarmChannelAdmin(RoomAdmin):
    list_display = ("name", "kind", "target", "minimum_state", "is_enabled")
    related = (Related("Notifications", "monitoring.notification", "channel"),)
    actions = ("try_out",)

    @admin.action(description="Send a test", permissions=["change"])
    def try_out(self, request: HttpRequest, channels: QuerySet[AlarmChannel]) -> None:
        for channel in channels:
            try:
                send_to(
                    channel,
                    {"alarm": "test", "to": "ok", "description": "Sent by hand, to try the channel out."},
                )
            except Exception as error:  # whatever the channel says is what was asked for
                self.message_user(request, f"{channel}: {type(error).__name__}: {error}", messages.ERROR)
            else:
                self.message_user(request, f"{channel}: sent")
            record(Actor.of_request(request), "monitoring.try_channel", [channel.name])


@admin.register(Notification)
class NotificationAdmin(ReadOnlyAdmin, BigTableAdmin):
    list_display = (
        "notification_id",
        "event",
        "channel",
        "status",
        "attempts",
        "next_at",
        "sent_at",
        "error",
    )
    list_filter = ("status", "channel")
    list_select_related = ("event", "channel")
    uuid_search_fields = ()
    actions = ("send_again",)

    def has_resend_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("monitoring.change_notification")

    @admin.action(description="Send again", permissions=["resend"])
    def send_again(self, request: HttpRequest, notes: QuerySet[Notification]) -> None:
        failed = notes.filter(status=Notification.Status.FAILED)
        ids = list(failed.values_list("pk", flat=True))
        failed.update(status=Notification.Status.PENDING, attempts=0, next_at=timezone.now())
        record(Actor.of_request(request), "monitoring.send_again", ids)
        self.message_user(request, f"{len(ids)} are sent again.")
