"""The newest events of a stream as they are stored, for people: the consumer `monitoring`.

Ephemeral, from the last event on, without acks: nothing waits for who watches, and what he misses is in PostgreSQL.
"""

import json
from collections.abc import Iterator
from typing import Any

from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from bridge import connection
from bridge.changes import Letter
from bridge.connection import Client
from bridge.puller import Puller

CALL_SECONDS = 10
WAIT_SECONDS = 0.5
BATCH = 100
IDLE_SECONDS = 30  # the server forgets a watcher who is gone
MONITORING = "monitoring"


def config(subject: str | None) -> ConsumerConfig:
    return ConsumerConfig(
        description=MONITORING,
        deliver_policy=DeliverPolicy.LAST,
        ack_policy=AckPolicy.NONE,
        filter_subject=subject,
        inactive_threshold=IDLE_SECONDS,
        mem_storage=True,
    )


def watch(stream: str, subject: str | None = None) -> Iterator[Letter | None]:
    """Give the last event and each that follows; None now and then while there is none, so that the caller may stop.
    Raises Unreachable."""
    puller = connection.call(lambda client: start(client, stream, subject), CALL_SECONDS)
    try:
        while True:
            pulled = connection.call(lambda _: puller.pull(BATCH, 1, WAIT_SECONDS, 0.0), CALL_SECONDS)
            yield from pulled.letters
            if not pulled.letters:
                yield None
    finally:
        connection.call(lambda _: puller.stop(), CALL_SECONDS)


async def start(client: Client, stream: str, subject: str | None) -> Puller:
    made = await client.jetstream.add_consumer(stream, config(subject))
    return await Puller(client.nc, stream, made.name, 0).start()


def describe(letter: Letter) -> dict[str, Any]:
    """Return an event as one row: JSON as such, anything else as text."""
    try:
        data = json.loads(letter.data)
    except ValueError:
        data = letter.data.decode(errors="backslashreplace")
    return {"at": letter.stored_at, "subject": letter.subject, "data": data}
