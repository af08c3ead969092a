from django.contrib import admin

from partitions.models import Policy
from pg.admin import RoomAdmin


@admin.register(Policy)
class PolicyAdmin(RoomAdmin):
    """Policies are edited, not added: each room brings its own."""

    list_display = ["table_name", "make_ahead_days", "keep_days", "on_expiry", "updated_at"]
    readonly_fields = ["table_name", "created_at", "updated_at"]

    def has_add_permission(self, request: object) -> bool:
        return False

    def has_delete_permission(self, request: object, obj: object = None) -> bool:
        return False
