"""What a worker's main process has fetched from a Redis broker, and no child has begun.

kombu copies each message it fetches into two keys of the broker, and deletes it there once a child has it: two round
trips, the first of them before the child is told. A ticket is not worth that: one that gets lost with its worker is
sent again by the sweep. Other jobs are copied as ever.
"""

from typing import Any

from kombu.transport import redis, virtual

from tasks.tickets import JOB


class QoS(redis.QoS):
    """Counts tickets in hand as virtual.QoS does, in memory: the prefetch limit holds for them too."""

    def append(self, message: Any, delivery_tag: str) -> None:
        kind = virtual.QoS if is_ticket(message) else redis.QoS
        kind.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        kind = virtual.QoS if is_ticket(self._delivered.get(delivery_tag)) else redis.QoS
        kind.ack(self, delivery_tag)


def is_ticket(message: Any) -> bool:
    return message is not None and message.headers.get("task") == JOB


def keep_tickets_in_memory() -> None:
    """Let the channels that this process opens from now on do so. Of no effect with other brokers."""
    redis.Channel.QoS = QoS
