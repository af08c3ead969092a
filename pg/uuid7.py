"""UUIDv7 (RFC 9562, section 5.7): ids that sort by the millisecond they were made in.

The same three functions exist in SQL as `partitions.uuid7`, `uuid7_floor` and `uuid7_time`.
"""

import os
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


def uuid7() -> UUID:
    """Return a new id for now. Ids of one millisecond are in random order."""
    return _build(time.time_ns() // 1_000_000, int.from_bytes(os.urandom(10), "big") >> 6)


def uuid7_at(moment: datetime, low_bits: int) -> UUID:
    """Return the id of `moment` (aware) with the given 74 low bits: the same arguments give the same id."""
    return _build((moment - EPOCH) // MILLISECOND, low_bits & ((1 << 74) - 1))


def uuid7_floor(moment: datetime) -> UUID:
    """Return the smallest UUID of that millisecond, of any version: a partition's bound."""
    return UUID(int=((moment - EPOCH) // MILLISECOND) << 80)


def uuid7_time(value: UUID) -> datetime:
    """Return the moment that the id carries, in UTC, to the millisecond."""
    return EPOCH + (value.int >> 80) * MILLISECOND


def _build(milliseconds: int, low_bits: int) -> UUID:
    rand_a, rand_b = low_bits >> 62, low_bits & ((1 << 62) - 1)
    return UUID(int=milliseconds << 80 | 7 << 76 | rand_a << 64 | 2 << 62 | rand_b)
