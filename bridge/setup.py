"""Bring a server to the declared topology: read what it has, plan, apply step by step."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nats.js.errors
from django.conf import settings
from nats.aio.client import Client as NatsClient
from nats.js.api import ConsumerInfo, StreamConfig

from bridge import batches, topology
from bridge.connection import Client, call
from bridge.topology import Consumer, Existing, Flush, Step
from pg.errors import MisterSmithError

SETUP_SECONDS = 60
NO_ROOM = {10023, 10028, 10047}
NO_PEERS = {10005, 10074}


class TopologyError(MisterSmithError):
    """A server refuses a bucket or stream. What was made before it stays; running setup again goes on."""


@dataclass(frozen=True)
class Found:
    """What a server has. `states` are message and byte counts by stream name, `consumers` what they know of themselves
    by `<stream>/<name>`, `created` epochs by stream name."""

    configs: Mapping[str, StreamConfig]
    states: Mapping[str, dict[str, int]]
    consumers: Mapping[str, ConsumerInfo]
    created: Mapping[str, int]
    cluster_size: int
    max_payload: int
    knows_batches: bool = True


def read_found(timeout_seconds: float = SETUP_SECONDS) -> Found:
    """Return what the server has of the declared streams and consumers. Raises Unreachable."""
    return call(_read_found, timeout_seconds)


async def _read_found(client: Client) -> Found:
    names = [item.stream for item in topology.declared()]
    infos = [info for info in await asyncio.gather(*(read_info(client, name) for name in names)) if info]
    labels = topology.consumers()
    known = await asyncio.gather(*(read_consumer(client, item) for item in labels.values()))
    return Found(
        {info.config.name: info.config for info in infos},
        {info.config.name: {"messages": info.state.messages, "bytes": info.state.bytes} for info in infos},
        {label: info for label, info in zip(labels, known, strict=True) if info},
        {info.config.name: topology.epoch_of_stream(info.config, info.created) for info in infos},
        cluster_size(client.nc),
        client.nc.max_payload,
        batches.are_known(client.nc),
    )


async def read_info(client: Client, name: str) -> Any:
    """Return the stream's information; None when there is no such stream."""
    try:
        return await client.jetstream.stream_info(name)
    except nats.js.errors.NotFoundError:
        return None


async def read_consumer(client: Client, item: Consumer) -> ConsumerInfo | None:
    """Return what a consumer knows of itself; None when it or its stream is not there."""
    try:
        return await client.jetstream.consumer_info(item.stream, item.name)
    except nats.js.errors.NotFoundError:
        return None


def cluster_size(nc: NatsClient) -> int:
    """Return how many servers the cluster has, as the connected one tells; 1 without a cluster."""
    greeting: dict[str, Any] = nc._server_info
    return max(1, len(set(greeting.get("connect_urls") or []))) if greeting.get("cluster") else 1


def make_plan(found: Found) -> list[Step]:
    consumers = {label: info.config for label, info in found.consumers.items()}
    existing = Existing(found.configs, consumers, found.created, found.knows_batches)
    return topology.plan(existing, min(settings.NATS_REPLICAS, found.cluster_size))


def apply_plan(
    steps: Sequence[Step], actions: Collection[str] = ("create", "update", "replace")
) -> list[Step]:
    """Do the steps that can be done; return them. Each is safe to repeat. Raises TopologyError, Unreachable."""
    doable = [step for step in steps if step.action in actions]
    for step in doable:
        call(lambda client, step=step: apply_step(client, step), SETUP_SECONDS)  # type: ignore[misc]
    return doable


async def apply_step(client: Client, step: Step) -> None:
    try:
        if isinstance(step.item, Consumer):
            await client.jetstream.add_consumer(step.item.stream, step.item.config())
        elif isinstance(step.item, Flush):
            await apply_flush(client, step, step.item)
        elif step.action == "create":
            await client.jetstream.add_stream(step.item.config(step.replicas))
        else:
            await client.jetstream.update_stream(step.item.config(step.replicas))
    except nats.js.errors.APIError as error:
        raise TopologyError(f"{step.object}: {error.description}", hint_for(error.err_code)) from error


async def apply_flush(client: Client, step: Step, item: Flush) -> None:
    """Make, update or replace a FLUSH stream and its consumer. Two at once may replace twice: then the bucket is read
    from its beginning twice, and the second reading changes nothing."""
    bucket = await client.jetstream.stream_info(item.source)
    epoch = topology.epoch_of(bucket.created)
    if step.action == "update":
        found = await client.jetstream.stream_info(item.stream)
        await client.jetstream.update_stream(item.config(step.replicas, topology.flush_epoch(found.config)))
        return
    if step.action == "replace":
        await refuse_unflushed(client, item)
        await client.jetstream.delete_stream(item.stream)
    await client.jetstream.add_stream(item.config(step.replicas, epoch))
    await client.jetstream.add_consumer(item.stream, flusher_of(item).config())


async def refuse_unflushed(client: Client, item: Flush) -> None:
    """Raise TopologyError while the stream holds what is not yet in PostgreSQL."""
    consumer = await read_consumer(client, flusher_of(item))
    if consumer is None:
        left = (await client.jetstream.stream_info(item.stream)).state.messages
    else:
        left = (consumer.num_pending or 0) + (consumer.num_ack_pending or 0)
    if left:
        raise TopologyError(
            f"{item.stream} holds {left} writes to the former {item.source} that are not in PostgreSQL yet",
            "keep manage.py bridge run at work: it flushes them and then replaces the stream",
        )


def flusher_of(item: Flush) -> Consumer:
    return topology.consumers()[f"{item.stream}/{topology.FLUSHER}"]


def hint_for(code: int | None) -> str:
    if code in NO_ROOM:
        return "raise max_file_store and max_memory_store in nats-server's configuration, or BRIDGE_OVERRIDES"
    if code in NO_PEERS:
        return "lower MISTERSMITH_NATS_REPLICAS, or start the missing servers of the cluster"
    return "see nats-server's log, and compare with manage.py bridge setup --dry-run"


def payload_warning(found: Found) -> str:
    """Return what to do about a server whose messages are smaller than our values; empty: it is in order."""
    needed = topology.needed_payload_bytes()
    if found.max_payload >= needed:
        return ""
    return (
        f"nats-server's max_payload is {found.max_payload} bytes, values need {needed}:"
        " set max_payload: 4MB in its configuration"
    )
