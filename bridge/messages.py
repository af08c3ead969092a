"""Messages on the stream AGENT_MESSAGES.

Logged ones are captured by a trigger (bridge/sql/0001_messages.sql); those that are not kept take the same way out
here, under the same subjects.
"""

import json
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection

from messaging.send import Passing
from messaging.signals import message_passed

# nothing where the event has no payload any more: too large for the stream, and nowhere else to be found
INSERT_EVENT = """
INSERT INTO bridge.outbox (target, key, op, payload)
SELECT 'AGENT_MESSAGES', bridge.message_subject(%s, %s, %s, %s, %s, %s::message_type, %s), 'E', e.event
FROM (SELECT bridge.message_event(%s::jsonb) AS event) e
WHERE NOT e.event ? 'is_reference'
"""


def pass_on(message: Passing, **_: Any) -> None:
    """Put a message that is not logged into the outbox, in the sender's transaction: the relay publishes it."""
    route = message.route
    event = {
        "message_id": message.message_id,
        "from_agent_id": message.from_agent,
        "to_agent_id": route.to_agent,
        "broadcast_to_type": route.broadcast_to_type,
        "channel": route.channel,
        "message_type": message.message_type,
        "subject": message.subject,
        "payload": message.payload,
        "headers": dict(message.headers),
        "correlation_id": message.correlation_id,
        "reply_to": message.reply_to,
        "priority": message.priority,
        "expires_at": message.expires_at,
    }
    with connection.cursor() as cursor:
        cursor.execute(
            INSERT_EVENT,
            [
                message.from_agent,
                route.to_agent,
                route.broadcast_to_type,
                route.channel,
                message.channel_type,
                message.message_type,
                message.subject,
                json.dumps(event, cls=DjangoJSONEncoder),
            ],
        )


def connect_signals() -> None:
    message_passed.connect(pass_on, dispatch_uid="bridge.messages")
