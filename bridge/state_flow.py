"""How the two stores work together, once for the synchronous and the asynchronous API: KV first; PostgreSQL for what KV
lacks; PostgreSQL alone while NATS is away. Only `ask` and `pg` touch the outside."""

from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from uuid import UUID

from bridge import state_pg
from bridge.connection import Client
from bridge.kv import Entry
from bridge.state_kv import AgentKeys, conflict
from bridge.state_values import StateValue, Version, check_ttl, encode_value
from pg.errors import Unreachable

T = TypeVar("T")
Work = Callable[[Client], Coroutine[Any, Any, T]]


@dataclass
class Found:
    """What KV knows: live values, and the entries of all keys that it has ever seen, deleted ones too."""

    values: dict[str, StateValue]
    entries: Mapping[str, Entry]

    def lacks(self, key: str) -> bool:
        """Whether PostgreSQL must be asked: there is nothing in KV, not even that the key was deleted."""
        return key not in self.values and not (key in self.entries and self.entries[key].is_deleted)


class StateFlow:
    """`epoch` None: not fenced, for operators and for code that is not the agent itself."""

    def __init__(self, agent_id: UUID | str, epoch: int | None = None) -> None:
        self.agent_id, self.epoch = UUID(str(agent_id)), epoch
        self._keys = AgentKeys(self.agent_id, epoch)

    def ask(self, work: Work[T]) -> Awaitable[T]:
        """Run `work(client)`. Raises Unreachable, at once while NATS is known to be away."""
        raise NotImplementedError

    def pg(self, work: Callable[..., T], *args: Any, **options: Any) -> Awaitable[T]:
        """Run database work where the caller's connection is."""
        raise NotImplementedError

    # -- read -------------------------------------------------------------------------------------------------
    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value, or `default` where there is none."""
        found = await self.read(key)
        return default if found is None else found.value

    async def read(self, key: str) -> StateValue | None:
        """Return value and version; None: there is no such key, or it has expired."""
        return (await self.read_many([key])).get(key)

    async def read_many(self, keys: Collection[str] | None = None) -> dict[str, StateValue]:
        """Return those of the keys that there are; None: all of the agent's. What KV lacks is refilled from
        PostgreSQL. Raises Refused where an agent wrote what is not JSON."""
        try:
            found = await self.ask(lambda client: self._look(client, keys))
            wanted = keys if keys is None else [key for key in keys if found.lacks(key)]
            if wanted is not None and not wanted:
                return found.values
            rows = await self.pg(state_pg.read_rows, self.agent_id, wanted)
            missing = {key: row for key, row in rows.items() if found.lacks(key)}
            if not missing:
                return found.values
            return found.values | await self.ask(lambda client: self._refill(client, missing, found.entries))
        except Unreachable:
            rows = await self.pg(state_pg.read_rows, self.agent_id, keys)
            return {key: row.to_value(key) for key, row in rows.items()}

    async def _look(self, client: Client, keys: Collection[str] | None) -> Found:
        if keys is None:
            entries = await self._keys.read_all(client)
        elif len(keys) == 1:
            (key,) = keys
            entries = {key: await self._keys.read(client, key)}
        else:
            entries = await self._keys.read_many(client, list(keys))
        epoch = (await self._keys.info(client)).epoch
        values = {
            key: self._keys.to_value(key, entry, epoch) for key, entry in entries.items() if entry.is_live
        }
        return Found(values, entries)

    async def _refill(
        self, client: Client, rows: Mapping[str, state_pg.Row], seen: Mapping[str, Entry]
    ) -> dict[str, StateValue]:
        """Store what KV lacks; what the relay is about to bring is left to it."""
        values = {key: row.to_value(key) for key, row in rows.items()}
        texts = {key: (row.text, row.seconds_left()) for key, row in rows.items() if not row.is_pending}
        stored = await self._keys.refill(client, texts, seen)
        values |= {key: replace(values[key], version=str(version)) for key, version in stored.items()}
        overtaken = [key for key in texts if key not in stored]
        return values | ((await self._look(client, overtaken)).values if overtaken else {})

    # -- write ------------------------------------------------------------------------------------------------
    async def put(self, key: str, value: Any, *, ttl_seconds: int | None = None) -> str:
        """Set a key, whatever was there; return its version. `ttl_seconds` None: it does not expire.

        Raises StaleEpoch when a successor of the agent took over, ValueTooLarge (2 MB), Refused (no JSON, a bad key).
        """
        return (await self.put_many({key: value}, ttl_seconds=ttl_seconds))[key]

    async def put_many(self, values: Mapping[str, Any], *, ttl_seconds: int | None = None) -> dict[str, str]:
        """Set several keys; return their versions. Each for itself in KV, all or none in PostgreSQL."""
        check_ttl(ttl_seconds)
        data = {key: encode_value(key, value) for key, value in values.items()}
        try:
            versions = await self.ask(lambda client: self._store(client, data, ttl_seconds))
        except Unreachable:
            versions = await self.pg(state_pg.put_rows, self.agent_id, values, ttl_seconds, self.epoch)
        return {key: str(version) for key, version in versions.items()}

    async def _store(
        self, client: Client, data: Mapping[str, bytes], ttl_seconds: int | None
    ) -> dict[str, Version]:
        if len(data) > 1:
            return await self._keys.put_many(client, data, ttl_seconds)
        return {key: await self._keys.put(client, key, one, ttl_seconds) for key, one in data.items()}

    async def compare_and_set(
        self, key: str, value: Any, version: str, *, ttl_seconds: int | None = None
    ) -> str:
        """Set a key where it is still what was read as `version` (`absent`: where there is none); return the new
        version. Raises VersionConflict when it is not, and what `put` raises."""
        check_ttl(ttl_seconds)
        data, expected = encode_value(key, value), Version.parse(version)
        try:
            revision = await self._expect(key, expected)
            if revision is not None:
                stored = await self.ask(
                    lambda client: self._keys.compare_and_set(client, key, data, revision, ttl_seconds)
                )
                return str(stored)
        except Unreachable:
            pass
        return str(await self._compare_row(key, value, expected, ttl_seconds))

    async def delete(self, key: str, *, version: str | None = None) -> None:
        """Delete a key, in both stores; with `version` only where it is still what was read. A key that is not there
        is no error without `version`. Raises VersionConflict, StaleEpoch."""
        if version is None:
            await self._delete(key)
            return
        expected = Version.parse(version)
        try:
            revision = await self._expect(key, expected)
            if revision is not None:
                await self.ask(lambda client: self._keys.compare_and_set(client, key, None, revision, None))
                return
        except Unreachable:
            pass
        await self._compare_row(key, None, expected, None, is_delete=True)

    async def _delete(self, key: str) -> None:
        try:
            await self.ask(lambda client: self._keys.delete(client, key))
        except Unreachable:
            await self.pg(state_pg.delete_row, self.agent_id, key, self.epoch)

    async def _expect(self, key: str, expected: Version) -> int | None:
        """Return the revision that KV must have (0: none); None: the version was read from PostgreSQL."""
        if expected.row:
            return None
        if expected == Version():
            if await self.read(key) is not None:  # it may be in PostgreSQL alone
                raise conflict(key)
            return 0
        info = await self.ask(self._keys.info)
        if info.epoch != expected.epoch:
            raise conflict(key)  # of a bucket that is no more
        return expected.revision

    async def _compare_row(
        self, key: str, value: Any, expected: Version, ttl_seconds: int | None, *, is_delete: bool = False
    ) -> Version:
        try:
            entry = await self.ask(lambda client: self._keys.read(client, key))
            newest = entry.revision if entry.is_foreign else 0
        except Unreachable:
            newest = 0
        return await self.pg(
            state_pg.compare_and_set_row,
            self.agent_id,
            key,
            value,
            expected,
            ttl_seconds,
            self.epoch,
            newest=newest,
            is_delete=is_delete,
        )
