"""The bucket QUERY_CACHE as Django's cache: `"BACKEND": "bridge.cache.QueryCache"`.

It is a cache: NATS away means misses, never an error in a page (OPTIONS `RAISE_ERRORS` for those who want one). Values
live in the memory of one server for at most the bucket's time to live; when the bucket is full the oldest go first.
docs/cache.md has the rules.
"""

import logging
import math
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

import nats.errors
from django.conf import settings
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache, InvalidCacheBackendError

from bridge import topology
from bridge.breaker import Breaker
from bridge.cache_values import Unreadable, dump, load, make_token
from bridge.connection import Client, call, link
from bridge.kv import ABSENT, EXPECTED, Entry, read_entry, ttl_header, write_entry
from bridge.newest import read_last
from bridge.publisher import COLLIDED, NO_RESPONDERS, TOO_LARGE, Message, Outcome
from bridge.setup import cluster_size
from pg.errors import Refused, Unreachable

log = logging.getLogger(__name__)
T = TypeVar("T")

DEFAULT_BUCKET = "QUERY_CACHE"
WAIT_SECONDS = 0.5  # the longest that a page waits for one call; many keys share it
BULK_SECONDS = 5
DELETED = {"KV-Operation": "PURGE", **ttl_header(1)}  # the marker goes by itself
MISSING = object()

breaker = Breaker()


class InvalidTimeout(Refused, ValueError):
    """A timeout that the bucket cannot keep; nothing was stored."""


class QueryCache(BaseCache):
    """LOCATION: the bucket, QUERY_CACHE if empty. OPTIONS: WAIT_SECONDS (0.5), RAISE_ERRORS (false). One instance per
    thread, as Django makes them; all share the process's connection."""

    def __init__(self, server: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        options = params.get("OPTIONS") or {}
        self.bucket = find_bucket(server or DEFAULT_BUCKET)
        self._wait_seconds = float(options.get("WAIT_SECONDS", WAIT_SECONDS))
        self._raises = bool(options.get("RAISE_ERRORS", False))

    # -- one key ----------------------------------------------------------------------------------------------
    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        token = self._token(key, version)
        value = self._value(token, self._ask(lambda client: self._read(client, token), ABSENT))
        return default if value is MISSING else value

    def has_key(self, key: str, version: int | None = None) -> bool:
        token = self._token(key, version)
        return self._value(token, self._ask(lambda client: self._read(client, token), ABSENT)) is not MISSING

    def set(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        token, ttl_seconds = self._token(key, version), self.ttl_seconds(timeout)
        data = dump(token, value)
        if ttl_seconds:
            self._ask(lambda client: self._store(client, token, data, ttl_seconds), None)
        else:
            self._ask(lambda client: self._write(client, token, b"", DELETED), None)

    def add(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Store where nothing is; tell whether that was so. False while NATS is away: nobody gets the lock."""
        token, ttl_seconds = self._token(key, version), self.ttl_seconds(timeout)
        data = dump(token, value)
        return self._ask(lambda client: self._add(client, token, data, ttl_seconds), False)

    def touch(self, key: str, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        token, ttl_seconds = self._token(key, version), self.ttl_seconds(timeout)
        return self._ask(lambda client: self._touch(client, token, ttl_seconds), False)

    def delete(self, key: str, version: int | None = None) -> bool:
        token = self._token(key, version)
        return self._ask(lambda client: self._touch(client, token, 0), False)

    def incr(self, key: str, delta: int = 1, version: int | None = None) -> int:
        """Add to a number, exactly once whoever else does so, and keep its time to live. Raises ValueError for a key
        that is not there, or while NATS is away."""
        token = self._token(key, version)
        changed: int | None = self._ask(lambda client: self._increase(client, token, delta), None)
        if changed is None:
            raise ValueError(f"Key {key!r} not found")
        return changed

    # -- many keys, pipelined -----------------------------------------------------------------------------------
    def get_many(self, keys: Iterable[str], version: int | None = None) -> dict[str, Any]:
        names = {self._token(key, version): key for key in keys}
        nothing: dict[str, Entry] = {}
        entries = self._ask(lambda client: self._read_many(client, names), nothing, BULK_SECONDS)
        found = {names[token]: self._value(token, entry) for token, entry in entries.items()}
        return {key: value for key, value in found.items() if value is not MISSING}

    def set_many(
        self, data: Mapping[str, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[str]:
        """Store all; return the keys that were not stored."""
        ttl_seconds = self.ttl_seconds(timeout)
        names = {self._token(key, version): key for key in data}
        headers = ttl_header(ttl_seconds) if ttl_seconds else DELETED
        messages = {
            token: self._message(token, dump(token, data[key]) if ttl_seconds else b"", headers)
            for token, key in names.items()
        }
        failed = self._ask(lambda client: self._store_many(client, messages), list(names), BULK_SECONDS)
        return [names[token] for token in failed]

    def delete_many(self, keys: Iterable[str], version: int | None = None) -> None:
        messages = [self._message(self._token(key, version), b"", DELETED) for key in keys]
        nothing: list[Outcome] = []
        self._ask(
            lambda client: client.publisher.publish(messages, self._wait_seconds), nothing, BULK_SECONDS
        )

    def clear(self) -> None:
        """Empty the whole bucket, whatever prefix wrote to it."""

        async def purge(client: Client) -> None:
            await client.jetstream.purge_stream(self.bucket.stream)

        self._ask(purge, None, BULK_SECONDS)

    # -- what the bucket can keep -----------------------------------------------------------------------------
    def ttl_seconds(self, timeout: Any = DEFAULT_TIMEOUT) -> int:
        """Return whole seconds, rounded up; 0: delete. Raises InvalidTimeout for what is longer than the bucket
        keeps anything, None (for ever) included."""
        seconds = self.default_timeout if timeout is DEFAULT_TIMEOUT else timeout
        limit = self.bucket.ttl_seconds
        if limit is not None and (seconds is None or seconds > limit):
            raise InvalidTimeout(
                f"timeout={seconds}: the bucket {self.bucket.name} keeps values for at most {limit} seconds",
                "give a timeout up to that, keep the value in another cache of CACHES, or raise ttl_seconds of the"
                " bucket in BRIDGE_OVERRIDES",
            )
        return max(0, math.ceil(seconds or 0))

    # -- on the loop ------------------------------------------------------------------------------------------
    async def _read(self, client: Client, token: str) -> Entry:
        return await read_entry(client, self.bucket, token, self._wait_seconds)

    async def _read_many(self, client: Client, tokens: Iterable[str]) -> dict[str, Entry]:
        subjects = [self.bucket.subject(token) for token in tokens]
        found = await read_last(client.nc, self.bucket.stream, subjects, self._wait_seconds)
        return {
            self.bucket.key(subject): Entry(last.revision, last.data)
            for subject, last in found.items()
            if not last.is_deleted
        }

    async def _write(self, client: Client, token: str, data: bytes, headers: Mapping[str, str]) -> Outcome:
        outcome = await write_entry(client, self.bucket, token, data, headers, self._wait_seconds)
        if outcome.code == NO_RESPONDERS:
            raise nats.errors.NoRespondersError
        if not outcome.is_stored and outcome.code not in (*COLLIDED, TOO_LARGE):
            raise Unreachable(f"bucket {self.bucket.name}: {outcome.text}", "run manage.py bridge setup")
        return outcome

    async def _heal(self, client: Client, work: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        """Do the work; make the bucket first if it is gone: it lives in memory, a restart of its server loses it."""
        try:
            return await work(client)
        except nats.errors.NoRespondersError:
            replicas = min(settings.NATS_REPLICAS, cluster_size(client.nc))
            await client.jetstream.add_stream(self.bucket.config(replicas))
            log.warning("cache: bucket %s was gone and is made anew", self.bucket.name)
            return await work(client)

    async def _store(self, client: Client, token: str, data: bytes, ttl_seconds: int) -> None:
        """Write, or drop the older value where the new one is too large to keep."""
        if len(data) <= self.bucket.max_value_bytes:
            outcome = await self._write(client, token, data, ttl_header(ttl_seconds))
            if outcome.is_stored:
                return
        await self._write(client, token, b"", DELETED)
        text = f"{token}: {len(data)} bytes, {self.bucket.name} takes {self.bucket.max_value_bytes}"
        if self._raises:
            raise Refused(text, "cache less, or a part of it")
        log.warning("not cached: %s", text)

    async def _store_many(self, client: Client, messages: Mapping[str, Message]) -> list[str]:
        outcomes = await client.publisher.publish(list(messages.values()), self._wait_seconds)
        if any(outcome.code == NO_RESPONDERS for outcome in outcomes):
            raise nats.errors.NoRespondersError
        failed = [token for token, outcome in zip(messages, outcomes, strict=True) if not outcome.is_stored]
        stale = [self._message(token, b"", DELETED) for token in failed]
        await client.publisher.publish(stale, self._wait_seconds)  # the old value must not stay
        return failed

    async def _add(self, client: Client, token: str, data: bytes, ttl_seconds: int) -> bool:
        last = ABSENT
        while True:
            headers = {**(ttl_header(ttl_seconds) if ttl_seconds else DELETED), EXPECTED: str(last.revision)}
            outcome = await self._write(client, token, data if ttl_seconds else b"", headers)
            if outcome.is_stored:
                return True
            last = await self._read(client, token)
            if outcome.code == TOO_LARGE or self._value(token, last) is not MISSING:
                return False

    async def _touch(self, client: Client, token: str, ttl_seconds: int) -> bool:
        """Give a value a new time to live, 0 to delete it; tell whether there was one."""
        while (last := await self._read(client, token)).is_live:
            condition = {EXPECTED: str(last.revision)}
            headers = {**(ttl_header(ttl_seconds) if ttl_seconds else DELETED), **condition}
            outcome = await self._write(client, token, last.data if ttl_seconds else b"", headers)
            if outcome.is_stored:
                return True
        return False

    async def _increase(self, client: Client, token: str, delta: int) -> Any:
        while (value := self._value(token, last := await self._read(client, token))) is not MISSING:
            changed = value + delta
            headers = {**ttl_header(last.seconds_left()), EXPECTED: str(last.revision)}
            outcome = await self._write(client, token, dump(token, changed), headers)
            if outcome.is_stored:
                return changed
        return None

    # -- helpers ----------------------------------------------------------------------------------------------
    def _token(self, key: str, version: int | None) -> str:
        return make_token(self.make_and_validate_key(key, version=version))

    def _message(self, token: str, data: bytes, headers: Mapping[str, str]) -> Message:
        return Message(self.bucket.subject(token), data, headers)

    def _value(self, token: str, entry: Entry) -> Any:
        if not entry.is_live:
            return MISSING
        try:
            return load(token, entry.data)
        except Unreadable as error:
            log.warning("cache: %s", error)
            return MISSING

    def _ask(
        self,
        work: Callable[[Client], Coroutine[Any, Any, T]],
        otherwise: T,
        timeout_seconds: float | None = None,
    ) -> T:
        """Return what `work` returns; `otherwise` when NATS is away, and for a few seconds after it was."""
        if breaker.is_open() and not self._raises:
            return otherwise
        try:
            wait_seconds = (
                timeout_seconds if timeout_seconds and link().is_connected() else self._wait_seconds
            )
            return call(lambda client: self._heal(client, work), wait_seconds)
        except Unreachable as error:
            if self._raises:
                raise
            breaker.trip()
            log.debug("cache: %s", error)
            return otherwise


def find_bucket(name: str) -> topology.Bucket:
    declared = topology.buckets()
    if name not in declared:
        raise InvalidCacheBackendError(
            f"LOCATION={name!r}: no such bucket; leave it out for {DEFAULT_BUCKET}"
        )
    return declared[name]
