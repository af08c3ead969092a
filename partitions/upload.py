"""Where archives are copied to besides this machine's disk, if anywhere: `partitions.s3`, or a store of your own.

from partitions.upload import register_store
register_store(store)          # in AppConfig.ready, when it is configured
"""

from pathlib import Path
from typing import Protocol


class Store(Protocol):
    """An object store. Its methods raise an OSError, or a MisterSmithError, when they did not succeed."""

    def put(self, path: Path, key: str) -> str:
        """Copy the file there under `key`, replacing what has that key; return its address ("s3://bucket/key")."""

    def get(self, key: str, path: Path) -> None:
        """Copy what has `key` into the file."""

    def check(self) -> str:
        """Return the store's address if it answers."""


_store: Store | None = None


def register_store(store: Store | None) -> None:
    """Copy archives to `store` from now on, and drop nothing that is not there. None: local files only."""
    global _store
    _store = store


def store() -> Store | None:
    return _store


def is_configured() -> bool:
    return _store is not None
