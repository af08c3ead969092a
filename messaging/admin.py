from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest

from messaging.delivery import redrive
from messaging.models import Channel, Delivery, Message, Subscription
from pg.admin import BigTableAdmin, ReadOnlyAdmin, Related, RoomAdmin, TimeWindowFilter


@admin.register(Channel)
class ChannelAdmin(RoomAdmin):
    list_display = ("channel_name", "channel_type", "is_active", "description", "created_at")
    list_filter = ("channel_type", "is_active")
    search_fields = ("channel_name", "description")
    readonly_fields = ("channel_id", "created_at")
    actions = ("close", "reopen")
    related = (
        Related("Messages", "messaging.message", "channel"),
        Related("Subscriptions", "messaging.subscription", "channel"),
    )

    @admin.action(description="Close: refuse messages from now on", permissions=["change"])
    def close(self, request: HttpRequest, channels: QuerySet[Channel]) -> None:
        self.set_active(request, channels, False)

    @admin.action(description="Open again", permissions=["change"])
    def reopen(self, request: HttpRequest, channels: QuerySet[Channel]) -> None:
        self.set_active(request, channels, True)

    def set_active(self, request: HttpRequest, channels: QuerySet[Channel], is_active: bool) -> None:
        word = "opened" if is_active else "closed"
        changed = list(channels.exclude(is_active=is_active))
        for channel in changed:
            channel.is_active = is_active
            channel.save(update_fields=["is_active"])
            self.log_change(request, channel, word)
        self.message_user(request, f"{len(changed)} channels {word}.")


@admin.register(Subscription)
class SubscriptionAdmin(RoomAdmin):
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
    rare_filters = ("message_type__exact",)
    list_select_related = ("from_agent", "to_agent", "channel")
    uuid_search_fields = ("pk", "correlation_id", "from_agent_id", "to_agent_id", "channel_id")
    search_help_text = "Paste the whole id of a message, a correlation, an agent or a channel."
    related = (
        Related("Deliveries", "messaging.delivery", "message"),
        Related("Same correlation", "messaging.message", "correlation_id", "correlation_id"),
        Related("Sender", "agents.agent", "agent_id", "from_agent_id"),
        Related("Receiver", "agents.agent", "agent_id", "to_agent_id"),
    )


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin, BigTableAdmin):
    list_display = (
        "delivery_id",
        "created_at",
        "message_id",
        "agent",
        "queue",
        "state",
        "priority",
        "attempts",
        "next_at",
        "error",
    )
    list_filter = (TimeWindowFilter, "state")
    list_select_related = ("agent", "queue")
    uuid_search_fields = ("pk", "message_id", "agent_id")
    search_help_text = "Paste the whole id of a delivery, a message or an agent."
    actions = ("redrive_selected",)
    related = (
        Related("Message", "messaging.message", "message_id", "message_id"),
        Related("Agent", "agents.agent", "agent_id", "agent_id"),
    )

    def has_redrive_permission(self, request: HttpRequest) -> bool:
        """Ask the model's own permission: ReadOnlyAdmin forbids every change by hand."""
        return request.user.has_perm("messaging.change_delivery")

    @admin.action(description="Send the selected dead deliveries again", permissions=["redrive"])
    def redrive_selected(self, request: HttpRequest, deliveries: QuerySet[Delivery]) -> None:
        chosen = list(deliveries.filter(state=Delivery.State.FAILED))
        redriven = redrive(delivery.pk for delivery in chosen)
        for delivery in chosen:
            self.log_change(request, delivery, "redriven")
        left = len(request.POST.getlist(ACTION_CHECKBOX_NAME)) - redriven
        text = f"{redriven} sent again" + (f"; {left} were not dead" if left > 0 else "")
        self.message_user(request, text, messages.WARNING if left > 0 else messages.SUCCESS)
