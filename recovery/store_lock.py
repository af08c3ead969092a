"""Who replaces or deletes objects of the store does it alone: repairs, re-encryption, sweeps. Uploads only add."""

from collections.abc import Iterator
from contextlib import contextmanager

from partitions.locks import session_lock
from recovery.errors import Busy


@contextmanager
def changing_store() -> Iterator[None]:
    """Raises Busy while somebody else does."""
    with session_lock("recovery.store", "change") as is_ours:
        if not is_ours:
            raise Busy(
                "a repair, a re-encryption or a sweep of the store is running",
                "wait for it; it goes on where it was when you call it again",
            )
        yield
