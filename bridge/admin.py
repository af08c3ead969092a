"""The cockpit's view of the bridge: what waits, what NATS refuses, whose write lost."""

from django.contrib import admin
from django.db import connections
from django.db.models import QuerySet
from django.http import HttpRequest

from bridge.models import Conflict, OutboxRow, QuarantinedRow
from bridge.outbox import redrive
from pg.admin import BigTableAdmin, ReadOnlyAdmin


@admin.register(OutboxRow)
class OutboxAdmin(ReadOnlyAdmin, BigTableAdmin):
    list_display = ["outbox_id", "target", "key", "op", "created_at"]
    list_filter = ["op"]
    search_fields = ["=key"]
    search_help_text = "A whole key."


@admin.register(QuarantinedRow)
class QuarantineAdmin(ReadOnlyAdmin, BigTableAdmin):
    list_display = ["outbox_id", "target", "key", "op", "attempts", "error", "quarantined_at"]
    search_fields = ["=key"]
    search_help_text = "A whole key."
    actions = ["send_again", "drop"]

    def has_redrive_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("bridge.change_quarantinedrow")

    @admin.action(description="Send again", permissions=["redrive"])
    def send_again(self, request: HttpRequest, queryset: QuerySet[QuarantinedRow]) -> None:
        for row in queryset:
            self.log_change(request, row, "sent again")
        number = redrive(connections[queryset.db], [row.pk for row in queryset])
        self.message_user(request, f"{number} rows are back in the outbox.")

    @admin.action(description="Drop for good, and let later rows of the key go on", permissions=["redrive"])
    def drop(self, request: HttpRequest, queryset: QuerySet[QuarantinedRow]) -> None:
        self.log_deletions(request, queryset)
        number, _ = queryset.delete()
        self.message_user(request, f"{number} rows dropped.")


@admin.register(Conflict)
class ConflictAdmin(ReadOnlyAdmin, BigTableAdmin):
    list_display = ["conflict_id", "target", "key", "strategy", "kv_revision", "noticed_at"]
    search_fields = ["=key"]
    search_help_text = "A whole key."
