"""What tests of the flusher do: pull what is there, and flush it."""

import json
from contextlib import contextmanager
from typing import Any

from bridge import connection, setup, topology
from bridge.flush_runner import CONFLICT_SECONDS
from bridge.flusher import Flushed, flush_batch
from bridge.puller import Puller, acknowledge, put_back
from bridge.sources import note_epochs
from bridge.targets import TARGETS
from tests.bridge.conftest import rows, wait_until


def write(bucket: str, key: str, data: Any = None, operation: str | None = None, **headers: str) -> int:
    """Write as an agent would, and return the revision when the FLUSH stream has it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if operation:
        named["KV-Operation"] = operation
    text = data if isinstance(data, bytes) else b"" if operation else json.dumps(data).encode()
    revision = connection.call(
        lambda c: c.jetstream.publish(f"$KV.{bucket}.{key}", text, headers=named or None)
    ).seq
    wait_for_source(bucket, revision)
    return revision


def wait_for_source(bucket: str, revision: int) -> None:
    """Wait until the FLUSH stream has taken a revision from its bucket."""

    async def last(client: Any) -> int:
        info = await client.jetstream.stream_info(f"FLUSH_{bucket}")
        if not info.state.messages:
            return 0
        message = await client.jetstream.get_msg(f"FLUSH_{bucket}", info.state.last_seq)
        return int(message.headers["Nats-Stream-Source"].split(" ")[1])

    wait_until(lambda: connection.call(last) >= revision)


def epoch(bucket: str) -> int:
    return setup.read_found().created[f"KV_{bucket}"]


@contextmanager
def pulling(bucket: str):
    """A puller on the bucket's consumer."""
    known = epoch(bucket)

    async def start(client: Any) -> Puller:
        return await Puller(client.nc, f"FLUSH_{bucket}", topology.FLUSHER, known).start()

    puller = connection.call(start)
    try:
        yield puller
    finally:
        connection.call(lambda _: puller.stop())


def pull(puller: Puller, most: int = 2_000, wait_seconds: float = 0.3) -> list[Any]:
    """What the consumer has now."""
    found = []
    while letters := connection.call(lambda _: puller.pull(most, 1, wait_seconds, 0.02)).letters:
        found += letters
    return found


def flush(session: Any, bucket: str = "AGENT_STATE") -> Flushed:
    """Flush and acknowledge all that is there, as one batch."""
    note_epochs(session, setup.read_found().created)
    with pulling(bucket) as puller:
        letters = pull(puller)
        done = flush_batch(session, TARGETS[bucket], letters)
        waiting = {id(letter) for letter in done.waiting}
        connection.call(lambda c: acknowledge(c.nc, [each for each in letters if id(each) not in waiting]))
        connection.call(lambda c: put_back(c.nc, done.waiting, CONFLICT_SECONDS))
        connection.call(lambda c: c.nc.flush())
    return done


def state(agent: Any) -> dict[str, Any]:
    """The agent's state in PostgreSQL."""
    found = rows("SELECT state_key, state_value::text FROM agents.state WHERE agent_id = %s", agent.pk)
    return {key: json.loads(value) for key, value in found}
