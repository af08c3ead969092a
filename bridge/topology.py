"""The buckets, streams and consumers of the control plane, declared once; `plan` compares them with what a server has.

Every figure can be replaced in settings: `BRIDGE_OVERRIDES = {"AGENT_STATE": {"ttl_seconds": 600}}`; a stream whose
name is also a bucket's is `"stream:AGENT_STATE"`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RePublish,
    RetentionPolicy,
    StorageType,
    StoreCompression,
    StreamConfig,
    StreamSource,
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
            allow_atomic=True,
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
            allow_atomic=True,
            deny_delete=False,
        )


@dataclass(frozen=True)
class Flush:
    """The stream FLUSH_<bucket>: each write to a bucket that agents write, in order, long after the bucket forgot it.

    It takes what its bucket stores (a source), and says in its metadata of which making of the bucket: revisions of
    another one mean other writes, and a server does not go on with a bucket that was made anew.
    """

    bucket: str
    max_bytes: int
    max_age_seconds: int = 7 * DAY
    replicas: int = 3

    @property
    def stream(self) -> str:
        return f"FLUSH_{self.bucket}"

    @property
    def name(self) -> str:
        return self.stream

    @property
    def source(self) -> str:
        return f"KV_{self.bucket}"

    def config(self, replicas: int, epoch: int | None = None) -> StreamConfig:
        """`epoch` None: the one that is there stays (nats-server keeps metadata that an update leaves out)."""
        return StreamConfig(
            name=self.stream,
            sources=[StreamSource(name=self.source)],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            compression=StoreCompression.S2,
            discard=DiscardPolicy.OLD,
            max_age=self.max_age_seconds,
            max_bytes=self.max_bytes,
            max_msgs=-1,
            max_msg_size=-1,
            max_msgs_per_subject=-1,
            duplicate_window=2 * MINUTE,
            num_replicas=min(replicas, self.replicas),
            allow_direct=True,
            metadata=None if epoch is None else {EPOCH: str(epoch)},
        )


@dataclass(frozen=True)
class Consumer:
    """A durable pull consumer with explicit acks. `max_deliver` -1: a message comes until it is acknowledged."""

    stream: str
    name: str
    ack_wait_seconds: int
    max_ack_pending: int
    max_deliver: int = -1
    filter_subject: str | None = None

    @property
    def label(self) -> str:
        return f"{self.stream}/{self.name}"

    def config(self) -> ConsumerConfig:
        return ConsumerConfig(
            durable_name=self.name,
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self.ack_wait_seconds,
            max_deliver=self.max_deliver,
            max_ack_pending=self.max_ack_pending,
            filter_subject=self.filter_subject,
        )


Declared = Bucket | Stream | Flush
EPOCH = "kv_epoch"  # in the metadata of a FLUSH stream
COPY_OF = "copy_of"  # in the metadata of a restored event stream: messages keep the ids that were minted of its epoch

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
    # what used up its deliveries: a server says so once, and to nobody who is not there
    Stream(
        "CONSUMER_ADVISORIES",
        ("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>",),
        max_age_seconds=7 * DAY,
        max_messages=100_000,
        max_bytes=64 * MIB,
        max_message_bytes=64 * KIB,
    ),
)
FLUSHES = (Flush("AGENT_STATE", max_bytes=10 * GIB), Flush("SESSION_DATA", max_bytes=2 * GIB))
FLUSHER, MESSAGES, PROGRESS, DEAD = (
    "flusher",
    "message-batch-processor",
    "task-processor",
    "dead-letter-collector",
)
CONSUMERS = (
    *(Consumer(flush.stream, FLUSHER, ack_wait_seconds=10, max_ack_pending=20_000) for flush in FLUSHES),
    Consumer("AGENT_MESSAGES", MESSAGES, ack_wait_seconds=60, max_ack_pending=1_000, max_deliver=5),
    Consumer(
        "TASK_EXECUTION",
        PROGRESS,
        ack_wait_seconds=30,
        max_ack_pending=100,
        max_deliver=3,
        filter_subject="tasks.started.>",
    ),
    Consumer("CONSUMER_ADVISORIES", DEAD, ack_wait_seconds=30, max_ack_pending=1_000),
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


def flushes() -> dict[str, Flush]:
    """Return the FLUSH streams by the name of their bucket, as settings have them."""
    return {
        flush.bucket: replace(flush, **overrides().get(f"stream:{flush.stream}", {})) for flush in FLUSHES
    }


def consumers() -> dict[str, Consumer]:
    """Return the consumers by `<stream>/<name>`, as settings have them."""
    return {
        consumer.label: replace(consumer, **overrides().get(f"consumer:{consumer.label}", {}))
        for consumer in CONSUMERS
    }


def declared() -> list[Declared]:
    """Return what is a stream on the server; buckets before the streams that take from them."""
    return [*buckets().values(), *streams().values(), *flushes().values()]


def epoch_of(created: datetime | None) -> int:
    """Return when a stream was made in microseconds since 1970; 0: not known."""
    return (created - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) if created else 0


def epoch_of_stream(config: StreamConfig, created: datetime | None) -> int:
    """Return the epoch of what a stream holds: of one that was restored, that of the one it was a copy of."""
    return int((config.metadata or {}).get(COPY_OF, 0)) or epoch_of(created)


@dataclass(frozen=True)
class Step:
    """One thing that `bridge setup` would do. `refuse`: the server can't change it in place; `replace`: delete and
    make anew, once all that it holds is flushed."""

    action: str  # create, update, replace, refuse
    object: str
    why: str
    item: Declared | Consumer
    replicas: int = 1


COMPARED = (
    "subjects",
    "sources",
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
    "allow_atomic",
    "deny_delete",
    "republish",
)
FIXED = ("storage", "retention")  # a server keeps what a stream was made with
COMPARED_OF_CONSUMERS = (
    "deliver_policy",
    "ack_policy",
    "ack_wait",
    "max_deliver",
    "max_ack_pending",
    "filter_subject",
)
FIXED_OF_CONSUMERS = ("deliver_policy", "ack_policy")


@dataclass(frozen=True)
class Existing:
    """What a server has of what is declared. `created` are epochs by stream; a server that knows no batches drops
    the setting for them, which is no drift."""

    streams: Mapping[str, StreamConfig]
    consumers: Mapping[str, ConsumerConfig]
    created: Mapping[str, int]
    knows_batches: bool = True


def plan(existing: Existing, replicas: int) -> list[Step]:
    """Return the steps from what the server has to what is declared. Nothing to do: none."""
    steps = [plan_stream(item, existing, replicas) for item in declared()]
    replaced = {step.object for step in steps if step and step.action == "replace"}
    steps += [
        plan_consumer(item, existing, replicas)
        for item in consumers().values()
        if item.stream not in replaced
    ]
    return [step for step in steps if step]


def plan_stream(item: Declared, existing: Existing, replicas: int) -> Step | None:
    found = existing.streams.get(item.stream)
    if found is None:
        return Step("create", item.stream, NOT_THERE, item, replicas)
    if isinstance(item, Flush) and is_of_another_bucket(item, existing):
        why = f"{item.source} was made anew, and a server does not go on with its new revisions"
        return Step("replace", item.stream, why, item, replicas)
    compared = COMPARED if existing.knows_batches else [name for name in COMPARED if name != "allow_atomic"]
    drift = differences(item.config(replicas), found, compared)
    return make_step(item, item.stream, drift, FIXED, replicas)


def is_of_another_bucket(item: Flush, existing: Existing) -> bool:
    """Tell whether the stream holds revisions of a bucket that is not there any more."""
    epoch = existing.created.get(item.source)
    return epoch is not None and flush_epoch(existing.streams[item.stream]) != epoch


def flush_epoch(config: StreamConfig) -> int:
    """Return the epoch of the bucket that a FLUSH stream was made for; 0: somebody else made it."""
    return int((config.metadata or {}).get(EPOCH, 0))


def plan_consumer(item: Consumer, existing: Existing, replicas: int) -> Step | None:
    found = existing.consumers.get(item.label)
    if found is None:
        return Step("create", item.label, NOT_THERE, item)
    drift = differences(item.config(), found, COMPARED_OF_CONSUMERS)
    return make_step(item, item.label, drift, FIXED_OF_CONSUMERS, replicas)


NOT_THERE = "it is declared and the server does not have it"


def make_step(
    item: Declared | Consumer,
    name: str,
    drift: Mapping[str, tuple[Any, Any]],
    fixed: Sequence[str],
    replicas: int,
) -> Step | None:
    if not drift:
        return None
    why = "; ".join(f"{what} is {now}, declared {then}" for what, (now, then) in drift.items())
    action = "refuse" if any(what in fixed for what in drift) else "update"
    return Step(action, name, why, item, replicas)


def differences(wanted: Any, found: Any, compared: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """Return, by name, the settings that differ: (what the server has, what is declared)."""
    pairs = {name: (comparable(getattr(found, name)), comparable(getattr(wanted, name))) for name in compared}
    return {name: (now, then) for name, (now, then) in pairs.items() if now != then}


def comparable(value: Any) -> Any:
    """Return what two spellings of the same setting have in common: a server leaves out what is off."""
    if isinstance(value, RePublish):
        return f"{value.src} to {value.dest}"
    if isinstance(value, StreamSource):
        return value.name
    if isinstance(value, list):
        return sorted(comparable(each) for each in value)
    if hasattr(value, "value"):
        return value.value
    return value or 0


def needed_payload_bytes() -> int:
    """Return the largest `max_payload` that a value of any bucket needs, headers included."""
    return max(bucket.max_value_bytes for bucket in buckets().values()) + HEADER_ROOM_BYTES
