"""How each bucket and stream is kept in a cross-system backup. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from bridge import topology
from bridge.mirrors import MIRRORS


class How(StrEnum):
    SNAPSHOT = "snapshot"  # as it was at the point
    REPLAY = "replay"  # a snapshot, of which what PostgreSQL lacks at the point is applied to it
    REBUILD = "rebuild"  # made anew from PostgreSQL
    NOT_KEPT = "not_kept"


@dataclass(frozen=True)
class Keeping:
    """`is_fenced`: nobody may write while its snapshot is taken, for keys are overwritten there."""

    name: str
    stream: str
    how: How
    why: str
    is_fenced: bool = False

    @property
    def is_bucket(self) -> bool:
        return self.stream.startswith("KV_")

    @property
    def has_snapshot(self) -> bool:
        return self.how in (How.SNAPSHOT, How.REPLAY)


def keepings() -> list[Keeping]:
    """Return one per declared bucket and stream, in the order of the topology."""
    owned = {mirror.bucket: not mirror.is_shared for mirror in MIRRORS}
    return [
        *(of_bucket(bucket, owned.get(bucket.name)) for bucket in topology.buckets().values()),
        *(
            Keeping(
                stream.name,
                stream.stream,
                How.SNAPSHOT,
                "it only grows: taken while it does, cut at the point",
            )
            for stream in topology.streams().values()
        ),
        *(
            Keeping(
                flush.name, flush.stream, How.REPLAY, "what agents wrote and PostgreSQL lacks at the point"
            )
            for flush in topology.flushes().values()
        ),
    ]


def of_bucket(bucket: topology.Bucket, is_postgresql_s: bool | None) -> Keeping:
    """`is_postgresql_s` None: PostgreSQL has nothing of it."""
    if is_postgresql_s is None:
        return Keeping(bucket.name, bucket.stream, How.NOT_KEPT, "a cache")
    if is_postgresql_s:
        why = "PostgreSQL's own, taken under the fence"
        return Keeping(bucket.name, bucket.stream, How.SNAPSHOT, why, is_fenced=True)
    why = "agents overwrite it all the time: no snapshot of it would be whole"
    return Keeping(bucket.name, bucket.stream, How.REBUILD, why)
