"""Put JetStream's streams back: from snapshots, cut at the moment, and what no snapshot has made anew."""

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import nats.js.errors

from bridge import connection, setup, topology
from bridge.connection import Client
from bridge.hold import Restored
from recovery.cross_manifest import Stored
from recovery.errors import NotInStep
from recovery.jetstream import ask, put_back
from recovery.keeping import How, Keeping
from recovery.restore_source import Source

Mode = Literal["", "keep", "replace"]
RESTORED_FOR = "restored_for"  # in a stream's metadata: the restore that made it; a second try knows its own
CALL_SECONDS = 4 * 3600


@dataclass(frozen=True)
class Plan:
    """What will be done. `occupied` are the streams that hold messages now."""

    restored: Restored
    source: Source
    mode: Mode
    occupied: list[str]
    warnings: list[str]


def mark_of(restored: Restored) -> str:
    return restored.since.isoformat()


def clear(kept: list[Keeping], plan: Plan) -> None:
    """Delete what is in the way: empty streams, and with `replace` all of them. Those of an earlier try stay."""
    found = setup.read_found()
    for keeping in kept:
        config = found.configs.get(keeping.stream)
        if config is None or (config.metadata or {}).get(RESTORED_FOR) == mark_of(plan.restored):
            continue
        if keeping.stream in plan.occupied and plan.mode != "replace":
            raise NotInStep(
                f"stream {keeping.stream} holds messages", "run the command again, with --replace"
            )
        connection.call(lambda client, name=keeping.stream: client.jetstream.delete_stream(name))  # type: ignore[misc]


def put_streams_back(kept: list[Keeping], plan: Plan, stored: Stored) -> list[str]:
    """Restore the snapshots that the moment takes, and cut each at its mark; return their names."""
    found = setup.read_found()
    wanted = [k.stream for k in kept if k.how is How.SNAPSHOT and (plan.source.is_exact or not k.is_bucket)]
    for stream in wanted:
        if stream not in found.configs:
            changed = settings_of(stored, stream, found.cluster_size, plan)
            snapshot = stored.snapshots[stream]
            connection.call(lambda client, s=snapshot, c=changed: put_back(client, s, c), CALL_SECONDS)  # type: ignore[misc]
        if not stream.startswith("KV_"):  # those were taken under the fence
            connection.call(lambda client, s=stream: cut(client, stored, s), CALL_SECONDS)  # type: ignore[misc]
    return wanted


def settings_of(stored: Stored, stream: str, cluster_size: int, plan: Plan) -> dict[str, Any]:
    """Return what a restored stream must have otherwise: replicas that there are, and whose copy it is."""
    config = stored.snapshots[stream].config
    metadata = {**(config.get("metadata") or {}), RESTORED_FOR: mark_of(plan.restored)}
    if not stream.startswith("KV_"):
        metadata[topology.COPY_OF] = str(stored.epochs[stream])
    return {"num_replicas": min(config.get("num_replicas", 1), cluster_size), "metadata": metadata}


async def cut(client: Client, stored: Stored, stream: str) -> None:
    """Delete what the snapshot holds beyond the mark: it came after the moment. What agents have sent to the restored
    stream since lies behind all of it, and stays."""
    for sequence in range(stored.marks[stream] + 1, stored.snapshots[stream].state["last_seq"] + 1):
        with suppress(nats.js.errors.APIError):  # an earlier try has deleted it, or it ran out
            await client.jetstream.delete_msg(stream, sequence)


def make_the_rest(plan: Plan) -> None:
    """Create what no snapshot brought: agents' buckets, their FLUSH streams, consumers."""
    for _ in range(2):  # a FLUSH stream follows its bucket
        setup.apply_plan(setup.make_plan(setup.read_found()))
    for stream in setup.read_found().configs:
        connection.call(lambda client, name=stream: mark_stream(client, name, mark_of(plan.restored)))  # type: ignore[misc]


async def mark_stream(client: Client, stream: str, mark: str) -> None:
    """Note in a stream which restore made it."""
    config = (await ask(client, f"$JS.API.STREAM.INFO.{stream}", b"", stream))["config"]
    if (config.get("metadata") or {}).get(RESTORED_FOR) != mark:
        config["metadata"] = {**(config.get("metadata") or {}), RESTORED_FOR: mark}
        await ask(client, f"$JS.API.STREAM.UPDATE.{stream}", json.dumps(config).encode(), stream)
