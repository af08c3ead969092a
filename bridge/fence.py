"""The locks of the bridge: one relay leads; a backup may hold all publishers still (design, sections 5 and 7).

Whoever publishes what PostgreSQL committed, and then forgets it, holds the fence in shared mode meanwhile. A backup
takes it exclusively: then PostgreSQL and the buckets do not move against each other, while writers go on. After a
restore nobody gets it until JetStream is brought to the same moment (bridge.hold).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db.backends.base.base import BaseDatabaseWrapper

from bridge.hold import IS_FREE

FENCED = "a backup holds the fence, or a restore waits for JetStream"
FENCE = "hashtext('bridge'), hashtext('fence')"
LEADER = "hashtext('bridge'), hashtext('relay')"


@contextmanager
def shared_fence(db: BaseDatabaseWrapper) -> Iterator[bool]:
    """Hold the fence in shared mode, without waiting; give False when a backup has it."""
    with db.cursor() as cursor:
        cursor.execute(f"SELECT CASE WHEN {IS_FREE} THEN pg_try_advisory_lock_shared({FENCE}) ELSE false END")
        held = bool(cursor.fetchone()[0])
    try:
        yield held
    finally:
        if (
            held
        ):  # a session that is lost has let go of it by itself, and this then raises what the body raised
            with db.cursor() as cursor:
                cursor.execute(f"SELECT pg_advisory_unlock_shared({FENCE})")


def join_fence(db: BaseDatabaseWrapper) -> bool:
    """Hold the fence in shared mode until the transaction ends; False, and nothing held, when a backup has it."""
    with db.cursor() as cursor:
        cursor.execute(
            f"SELECT CASE WHEN {IS_FREE} THEN pg_try_advisory_xact_lock_shared({FENCE}) ELSE false END"
        )
        return bool(cursor.fetchone()[0])


def try_lead(db: BaseDatabaseWrapper) -> bool:
    """Become the leading relay as long as the session lives; False when another one leads."""
    with db.cursor() as cursor:
        cursor.execute(f"SELECT pg_try_advisory_lock({LEADER})")
        return bool(cursor.fetchone()[0])


def has_leader(db: BaseDatabaseWrapper) -> bool:
    """Tell whether some session leads."""
    with db.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            f" AND (classid::bigint, objid::bigint) = (SELECT x.a::bigint & 4294967295, x.b::bigint & 4294967295"
            f" FROM (SELECT {LEADER}) x (a, b)))"
        )
        return bool(cursor.fetchone()[0])
