from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from pg.admin import BigTableAdmin, ReadOnlyAdmin
from sessions.models import Session


class LiveFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("live", "Live"), ("expired", "Expired")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Session]) -> QuerySet[Session]:
        if self.value() == "live":
            return queryset.filter(expires_at__gt=timezone.now())
        if self.value() == "expired":
            return queryset.filter(expires_at__lte=timezone.now())
        return queryset


@admin.register(Session)
class SessionAdmin(ReadOnlyAdmin, BigTableAdmin):
    """Sessions are opened by programs; a person may look at one, and end it (which deletes its row)."""

    list_display = (
        "session_id",
        "session_type",
        "agent",
        "user_id",
        "ip_address",
        "last_activity",
        "expires_at",
        "live",
    )
    list_filter = (LiveFilter, "session_type")
    list_select_related = ("agent",)
    exclude = ("token_digest",)
    ordering = ("-expires_at", "-pk")
    uuid_search_fields = ("pk", "agent_id")
    search_fields = ("user_id__exact",)
    search_help_text = "A whole session id, agent id or user id."
    actions = ("revoke",)

    @admin.display(boolean=True)
    def live(self, session: Session) -> bool:
        return session.is_live

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Ask the model's own permission: ReadOnlyAdmin forbids it."""
        return request.user.has_perm("agent_sessions.delete_session")

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Offer `revoke` instead of Django's delete_selected: no page in between, for every minute counts."""
        return {
            name: action for name, action in super().get_actions(request).items() if name != "delete_selected"
        }

    @admin.action(description="Revoke the selected sessions", permissions=["delete"])
    def revoke(self, request: HttpRequest, sessions: QuerySet[Session]) -> None:
        self.log_deletions(request, sessions)
        revoked, _ = sessions.delete()
        self.message_user(request, f"{revoked} sessions revoked; their tokens no longer open anything.")
