"""What a model says of how its table is partitioned. A test holds it against the catalog."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Partitioning:
    """Strategy and key of a natively partitioned table.

    `modulus` is the number of hash leaves; None for the other strategies. `unique_key` is the table's primary key
    where it differs from the model's (the admin refuses composite keys, PostgreSQL wants the partition key in it).
    """

    strategy: Literal["range", "list", "hash"]
    key: str
    modulus: int | None = None
    unique_key: tuple[str, ...] | None = None


def by_time(key: str) -> Partitioning:
    """Daily ranges of the UUIDv7 column `key`."""
    return Partitioning("range", key)


def by_hash(key: str, modulus: int, unique_key: tuple[str, ...] | None = None) -> Partitioning:
    return Partitioning("hash", key, modulus, unique_key)


def by_list(key: str, unique_key: tuple[str, ...]) -> Partitioning:
    return Partitioning("list", key, None, unique_key)
