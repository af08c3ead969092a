from django.contrib import admin

from messaging.models import Channel, Delivery, Message, Subscription
from pg.admin import BigTableAdmin, ReadOnlyAdmin, TimeWindowFilter


@admin.register(Channel)
class ChannelAdmin(admin.ModelAdmin):
    list_display = ("channel_name", "channel_type", "is_active", "description", "created_at")
    list_filter = ("channel_type", "is_active")
    search_fields = ("channel_name", "description")
    readonly_fields = ("channel_id", "created_at")


@admin.register(Subscription)
class SubscriptionAdmin(admin.ModelAdmin):
    list_display = ("agent", "channel", "message_pattern", "is_active", "created_at")
    list_filter = ("is_active", "channel__channel_type")
    list_select_related = ("agent", "channel")
    search_fields = ("agent__agent_name", "channel__channel_name", "message_pattern")
    autocomplete_fields = ("channel",)
    raw_id_fields = ("agent",)
    readonly_fields = ("subscription_id", "created_at")


@admin.register(Message)
class MessageAdmin(ReadOnlyAdmin, BigTableAdmin):
    list_display = (
        "message_id",
        "sent_at",
        "message_type",
        "subject",
        "from_agent",
        "to_agent",
        "channel",
        "broadcast_to_type",
        "delivered_at",
        "processed_at",
    )
    list_filter = (TimeWindowFilter, "message_type")
    list_select_related = ("from_agent", "to_agent", "channel")
    uuid_search_fields = ("pk", "correlation_id", "from_agent_id", "to_agent_id", "channel_id")
    search_help_text = "Paste the whole id of a message, a correlation, an agent or a channel."


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin, BigTableAdmin):
    list_display = (
        "delivery_id",
        "created_at",
        "message_id",
        "agent",
        "state",
        "attempts",
        "next_at",
        "error",
    )
    list_filter = (TimeWindowFilter, "state")
    list_select_related = ("agent",)
    uuid_search_fields = ("pk", "message_id", "agent_id")
    search_help_text = "Paste the whole id of a delivery, a message or an agent."
