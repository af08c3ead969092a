"""The buckets and streams of the control plane, declared once; `plan` compares them with what a server has.

Every figure can be replaced in settings: `BRIDGE_OVERRIDES = {"AGENT_STATE": {"ttl_seconds": 600}}`; a stream whose
name is also a bucket's is `"stream:AGENT_STATE"`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from django.conf import settings
from nats.js.api import (
    DiscardPolicy,
    RePublish,
    RetentionPolicy,
    StorageType,
    StoreCompression,
    StreamConfig,
)

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
MINUTE, HOUR, DAY = 60, 3_600, 86_400
MAX_REPLICAS = 5
HEADER_ROOM_BYTES = 4 * KIB


@dataclass(frozen=True)
class Bucket:
    """A KV bucket. `ttl_seconds` None: values stay; `replicas` is the most that it ever has."""

    name: str
    max_bytes: int
    max_value_bytes: int
    ttl_seconds: int | None = None
    history: int = 1
    replicas: int = 3
    in_memory: bool = False
    is_culled: bool = False  # full: the oldest values go; else new ones are refused
    republish_to: str | None = None

    @property
    def stream(self) -> str:
        return f"KV_{self.name}"

    def subject(self, key: str) -> str:
        return f"$KV.{self.name}.{key}"

    def key(self, subject: str) -> str:
        return subject.removeprefix(f"$KV.{self.name}.")

    def config(self, replicas: int) -> StreamConfig:
        """Return the stream behind the bucket. nats-py's own create_key_value drops half of this."""
        return StreamConfig(
            name=self.stream,
            subjects=[self.subject(">")],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.MEMORY if self.in_memory else StorageType.FILE,
            compression=StoreCompression.NONE if self.in_memory else StoreCompression.S2,
            discard=DiscardPolicy.OLD if self.is_culled else DiscardPolicy.NEW,
            max_age=self.ttl_seconds or 0,
            max_bytes=self.max_bytes,
            max_msgs=-1,
            max_msg_size=self.max_value_bytes,
            max_msgs_per_subject=self.history,
            duplicate_window=min(
                2 * MINUTE, self.ttl_seconds or 2 * MINUTE
            ),  # the server wants it within max_age
            num_replicas=min(replicas, self.replicas),
            allow_direct=True,
            allow_rollup_hdrs=True,
            allow_msg_ttl=True,
            deny_delete=True,
            republish=RePublish(src=self.subject(">"), dest=self.republish_to) if self.republish_to else None,
        )


@dataclass(frozen=True)
class Stream:
    """An event stream: limits retention, the oldest go first."""

    name: str
    subjects: tuple[str, ...]
    max_age_seconds: int
    max_messages: int
    max_bytes: int
    max_message_bytes: int
    duplicate_window_seconds: int = 2 * MINUTE
    replicas: int = 3
    rollup: bool = False

    @property
    def stream(self) -> str:
        return self.name

    def config(self, replicas: int) -> StreamConfig:
        return StreamConfig(
            name=self.name,
            subjects=list(self.subjects),
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            compression=StoreCompression.S2,
            discard=DiscardPolicy.OLD,
            max_age=self.max_age_seconds,
            max_bytes=self.max_bytes,
            max_msgs=self.max_messages,
            max_msg_size=self.max_message_bytes,
            max_msgs_per_subject=-1,
            duplicate_window=min(self.duplicate_window_seconds, self.max_age_seconds),
            num_replicas=min(replicas, self.replicas),
            allow_direct=True,
            allow_rollup_hdrs=self.rollup,
            allow_msg_ttl=False,
            deny_delete=False,
        )


Declared = Bucket | Stream

BUCKETS = (
    Bucket("SESSION_DATA", max_bytes=GIB, max_value_bytes=MIB, ttl_seconds=HOUR),
    # republished for live views only. Not to agents.state.kv.>: the stream AGENT_STATE takes agents.state.>, and each
    # write would be stored a second time as an event
    Bucket(
        "AGENT_STATE",
        max_bytes=5 * GIB,
        max_value_bytes=2 * MIB,
        ttl_seconds=30 * MINUTE,
        history=3,
        republish_to="state.changed.>",
    ),
    Bucket("AGENT_CONFIG", max_bytes=GIB, max_value_bytes=512 * KIB, history=10),
    Bucket(
        "QUERY_CACHE",
        max_bytes=256 * MIB,
        max_value_bytes=MIB,
        ttl_seconds=5 * MINUTE,
        replicas=1,
        in_memory=True,
        is_culled=True,
    ),
    Bucket("TASK_STATE", max_bytes=2 * GIB, max_value_bytes=MIB, ttl_seconds=2 * HOUR, history=5),
)
STREAMS = (
    Stream(
        "AGENT_STATE",
        ("agents.state.>", "agents.lifecycle.>", "agents.heartbeat.>"),
        max_age_seconds=HOUR,
        max_messages=1_000_000,
        max_bytes=2 * GIB,
        max_message_bytes=MIB,
        rollup=True,
    ),
    # limits, not interest: messages would vanish while no consumer is bound, and with them the trail of the tasks
    Stream(
        "TASK_EXECUTION",
        ("tasks.created.>", "tasks.started.>", "tasks.completed.>", "tasks.failed.>", "tasks.cancelled.>"),
        max_age_seconds=DAY,
        max_messages=10_000_000,
        max_bytes=5 * GIB,
        max_message_bytes=5 * MIB,
        duplicate_window_seconds=5 * MINUTE,
    ),
    Stream(
        "AGENT_MESSAGES",
        (
            "messages.direct.>",
            "messages.broadcast.>",
            "messages.notification.>",
            "messages.topic.>",
            "messages.queue.>",
        ),
        max_age_seconds=5 * MINUTE,
        max_messages=100_000,
        max_bytes=100 * MIB,
        max_message_bytes=256 * KIB,
        replicas=1,
    ),
)


def overrides() -> Mapping[str, dict[str, Any]]:
    """Return the setting BRIDGE_OVERRIDES; empty when there is none."""
    chosen: Mapping[str, dict[str, Any]] = getattr(settings, "BRIDGE_OVERRIDES", {})
    return chosen


def buckets() -> dict[str, Bucket]:
    """Return the buckets by name, as settings have them."""
    return {bucket.name: replace(bucket, **overrides().get(bucket.name, {})) for bucket in BUCKETS}


def streams() -> dict[str, Stream]:
    """Return the streams by name, as settings have them."""
    return {
        stream.name: replace(stream, **overrides().get(f"stream:{stream.name}", {})) for stream in STREAMS
    }


def declared() -> list[Declared]:
    return [*buckets().values(), *streams().values()]


@dataclass(frozen=True)
class Step:
    """One thing that `bridge setup` would do. `refuse`: the server can't change it in place."""

    action: str  # create, update, refuse
    object: str
    why: str
    config: StreamConfig


COMPARED = (
    "subjects",
    "retention",
    "storage",
    "compression",
    "discard",
    "max_age",
    "max_bytes",
    "max_msgs",
    "max_msg_size",
    "max_msgs_per_subject",
    "duplicate_window",
    "num_replicas",
    "allow_direct",
    "allow_rollup_hdrs",
    "allow_msg_ttl",
    "deny_delete",
    "republish",
)
FIXED = ("storage", "retention")  # a server keeps what a stream was made with


def plan(existing: Mapping[str, StreamConfig], replicas: int) -> list[Step]:
    """Return the steps from what the server has (by stream name) to what is declared. Nothing to do: none."""
    return [step for item in declared() if (step := plan_one(item, existing.get(item.stream), replicas))]


def plan_one(item: Declared, found: StreamConfig | None, replicas: int) -> Step | None:
    wanted = item.config(replicas)
    if found is None:
        return Step("create", item.stream, "it is declared and the server does not have it", wanted)
    drift = differences(wanted, found)
    if not drift:
        return None
    why = "; ".join(f"{name} is {now}, declared {then}" for name, (now, then) in drift.items())
    fixed = [name for name in FIXED if name in drift]
    return Step("refuse" if fixed else "update", item.stream, why, wanted)


def differences(wanted: StreamConfig, found: StreamConfig) -> dict[str, tuple[Any, Any]]:
    """Return, by name, the settings that differ: (what the server has, what is declared)."""
    pairs = {name: (comparable(getattr(found, name)), comparable(getattr(wanted, name))) for name in COMPARED}
    return {name: (now, then) for name, (now, then) in pairs.items() if now != then}


def comparable(value: Any) -> Any:
    """Return what two spellings of the same setting have in common: a server leaves out what is off."""
    if isinstance(value, RePublish):
        return f"{value.src} to {value.dest}"
    if isinstance(value, list):
        return sorted(value)
    if hasattr(value, "value"):
        return value.value
    return value or 0


def needed_payload_bytes() -> int:
    """Return the largest `max_payload` that a value of any bucket needs, headers included."""
    return max(bucket.max_value_bytes for bucket in buckets().values()) + HEADER_ROOM_BYTES
