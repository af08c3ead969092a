"""What used up its deliveries becomes a dead letter: a server drops it from the consumer, and says so only once."""

import json
from datetime import UTC, datetime

import nats.js.errors
from django.db import connection as default

from bridge import connection, setup, topology
from bridge.changes import Letter
from bridge.connection import Client
from bridge.dead_letters import bury
from bridge.reader import Done, Reader


class ExhaustedReader(Reader):
    consumer = f"CONSUMER_ADVISORIES/{topology.DEAD}"

    def apply(self, letter: Letter) -> Done:
        told = json.loads(letter.data)
        label = f"{told['stream']}/{told['consumer']}"
        if label not in topology.consumers():
            return Done.STALE  # somebody else's consumer
        found = connection.call(lambda client: fetch(client, told["stream"], int(told["stream_seq"])))
        times = int(told.get("deliveries") or 1)
        reason = f"delivered {times} times and never settled"
        bury(default, told["consumer"], told["stream"], [(found, reason)])
        return Done.APPLIED


async def fetch(client: Client, stream: str, sequence: int) -> Letter:
    """Return a stored message; an empty one where the stream has forgotten it."""
    info = await setup.read_info(client, stream)
    epoch = topology.epoch_of(info.created) if info else 0
    try:
        found = await client.jetstream.get_msg(stream, sequence)
    except nats.js.errors.NotFoundError:
        return Letter(f"(gone from {stream})", b"", {}, sequence, epoch, datetime.now(UTC))
    stored_at = found.time or datetime.now(UTC)
    return Letter(found.subject, found.data or b"", found.headers or {}, sequence, epoch, stored_at)
