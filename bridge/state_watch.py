"""Watching one agent's keys in KV: what they hold, then every change, with nothing missed that is still there.

An ephemeral pull consumer, for a slow watcher must not lose messages. When the server forgets it (a restart, a bucket
made anew) the next poll makes another, which begins with the newest entry of each key; those seen already are left out.
"""

import json
import logging
from collections.abc import Sequence
from uuid import UUID

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from bridge import topology
from bridge.connection import Client
from bridge.keys import decode_key, is_fence
from bridge.kv import GONE, epoch_of
from bridge.state_values import StateChange, Version
from pg.errors import Unreachable

log = logging.getLogger(__name__)

STEP_SECONDS = 1.0  # the longest that one poll waits
RETRY_SECONDS = 0.5
BATCH = 200
IDLE_SECONDS = 30  # the server drops the consumer of a watcher that is silent for so long


class Watch:
    """One watcher. `poll` on any loop, but always on the same."""

    def __init__(self, agent_id: UUID) -> None:
        self.bucket = topology.buckets()["AGENT_STATE"]
        self._prefix = self.bucket.subject(f"{agent_id}.")
        self._subscription: JetStreamContext.PullSubscription | None = None
        self._seen: dict[str, int] = {}
        self._epoch = 0

    async def poll(self, client: Client, wait_seconds: float) -> list[StateChange]:
        """Return the changes that come within `wait_seconds`, at once when there are some; empty: none. Raises
        Unreachable."""
        try:
            subscription = self._subscription or await self._subscribe(client)
            return self._read(await subscription.fetch(BATCH, timeout=wait_seconds))
        except (nats.errors.TimeoutError, TimeoutError):
            await self._look_after_consumer(client)
            return []
        except (nats.errors.Error, nats.js.errors.Error) as error:
            self._subscription = None
            raise Unreachable(f"watching {self._prefix}>: {error}", "run manage.py bridge status") from error

    async def stop(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.unsubscribe()

    async def _subscribe(self, client: Client) -> JetStreamContext.PullSubscription:
        info = await client.jetstream.stream_info(self.bucket.stream)
        self._epoch = epoch_of(info.created)
        consumer = await client.jetstream.add_consumer(
            self.bucket.stream,
            ConsumerConfig(
                deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
                ack_policy=AckPolicy.NONE,
                filter_subject=f"{self._prefix}>",
                inactive_threshold=IDLE_SECONDS,
                mem_storage=True,
            ),
        )
        self._subscription = await client.jetstream.pull_subscribe_bind(
            consumer=consumer.name, stream=self.bucket.stream
        )
        return self._subscription

    async def _look_after_consumer(self, client: Client) -> None:
        """After silence: it may be that nothing happened, or that the server forgot us."""
        if self._subscription is None:
            return
        try:
            await self._subscription.consumer_info()
        except (nats.errors.Error, nats.js.errors.Error):
            self._subscription = None

    def _read(self, messages: Sequence[Msg]) -> list[StateChange]:
        changes = []
        for message in messages:
            key, revision = message.subject.removeprefix(self._prefix), message.metadata.sequence.stream
            is_known, is_same = key in self._seen, self._seen.get(key) == revision
            self._seen[key] = revision
            is_deleted = (message.headers or {}).get("KV-Operation") in GONE
            if is_fence(message.subject) or is_same or (is_deleted and not is_known):
                continue
            changes.append(self._to_change(decode_key(key), message, revision, is_deleted))
        return [change for change in changes if change]

    def _to_change(self, key: str, message: Msg, revision: int, is_deleted: bool) -> StateChange | None:
        version = str(Version(self._epoch, revision))
        if is_deleted:
            return StateChange(key, None, version, is_deleted=True)
        try:
            return StateChange(key, json.loads(message.data), version)
        except ValueError as error:
            log.warning("%s is not JSON: %s", message.subject, error)
            return None
