"""What a model says of how its table is partitioned, and for time tables how it is kept. A test holds it against the
catalog; `partitions.policies` takes the rest over.

    class Event(models.Model):
        event_id = models.UUIDField(primary_key=True, default=uuid7)
        partitioning = by_time("event_id", keep_days=90, on_expiry="archive")
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Keeping:
    """How a time-partitioned table is kept until somebody overrides it in the admin. `keep_days` None keeps all."""

    interval: Literal["hour", "day", "week", "month"] = "day"
    make_ahead_days: int = 14
    keep_days: int | None = 30
    on_expiry: Literal["archive", "drop", "keep"] = "archive"


@dataclass(frozen=True)
class Partitioning:
    """Strategy and key of a natively partitioned table.

    `modulus` is the number of hash leaves; None for the other strategies. `unique_key` is the table's primary key
    where it differs from the model's (the admin refuses composite keys, PostgreSQL wants the partition key in it).
    `keeping` is for ranges of time only.
    """

    strategy: Literal["range", "list", "hash"]
    key: str
    modulus: int | None = None
    unique_key: tuple[str, ...] | None = None
    keeping: Keeping | None = None


def by_time(
    key: str,
    interval: Literal["hour", "day", "week", "month"] = "day",
    make_ahead_days: int = 14,
    keep_days: int | None = 30,
    on_expiry: Literal["archive", "drop", "keep"] = "archive",
) -> Partitioning:
    """Ranges of the column `key`: a UUIDv7, a time, or (for intervals of days) a date."""
    return Partitioning("range", key, keeping=Keeping(interval, make_ahead_days, keep_days, on_expiry))


def by_hash(key: str, modulus: int, unique_key: tuple[str, ...] | None = None) -> Partitioning:
    return Partitioning("hash", key, modulus, unique_key)


def by_list(key: str, unique_key: tuple[str, ...]) -> Partitioning:
    return Partitioning("list", key, None, unique_key)
