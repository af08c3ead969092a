"""The store as a place to read from: every object's SHA-256 is compared on its way, and what is encrypted is opened."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pg.errors import Refused
from recovery import catalogue
from recovery.errors import NoKey
from recovery.sealing import Keys, is_sealed, keys_of_settings, unseal
from recovery.stores import Store, open_store

INBOX = "inbox"


@dataclass
class Source:
    """The store to fetch from. `allow_plain`: take what is not encrypted although we have keys; whoever may write to
    the store could have put it there."""

    store: Store
    keys: Keys
    allow_plain: bool = False

    def get(self, key: str, path: Path) -> None:
        """Write the object's contents to the file. Raises FileNotFoundError, Damaged, NoKey, Unreachable, Refused."""
        raw = path.with_name(f"{path.name}.raw")
        try:
            self.store.get(key, raw)
            if is_sealed(raw):
                unseal(raw, path, key, self.keys)
                return
            if self.keys.current is not None and not self.allow_plain:
                raise NoKey(
                    f"{key} is not encrypted, though we have keys: anybody could have put it there",
                    "is it from before there were keys? then: `manage.py backup fetch --allow-plain`",
                )
            raw.replace(path)
        finally:
            raw.unlink(missing_ok=True)


def open_source(allow_plain: bool = False) -> Source:
    """Raises Refused where no store is set."""
    store = open_store()
    if store is None:
        raise Refused(
            "there is no store: BACKUP_STORE_URL is not set", "set it to s3://bucket/prefix or file:///path"
        )
    return Source(store, keys_of_settings(), allow_plain)


@contextmanager
def inbox() -> Iterator[Path]:
    """Yield an empty folder for what is on its way."""
    folder = catalogue.root() / INBOX
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as name:
        yield Path(name)
