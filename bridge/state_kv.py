"""One agent's keys in the bucket AGENT_STATE, as one incarnation of the agent reads and writes them.

The key `<agent_id>.=epoch` holds the agent's newest epoch. A writer that names its epoch writes only while that key is
unchanged since it looked: the server checks (Nats-Expected-Last-Subject-Sequence-Subject), so a zombie's write is
refused however long it slept. docs/state.md has the rules.
"""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import nats.js.errors

from agents.errors import StaleEpoch
from bridge import topology
from bridge.connection import Client
from bridge.headers import AGENT_EPOCH
from bridge.keys import agent_state_key, decode_key, fence_key, is_fence
from bridge.kv import (
    ABSENT,
    EXPECTED,
    Entry,
    epoch_of,
    read_entry,
    read_entry_of_leader,
    to_entry,
    value_headers,
    write_entry,
)
from bridge.newest import LAST_AT_ONCE, MULTI_GET, chunks, direct_get
from bridge.publisher import COLLIDED, TOO_LARGE, WRONG_LAST_SEQUENCE, Message, Outcome
from bridge.state_values import StateValue, Version, VersionConflict
from pg.errors import Refused, Unreachable

ANSWER_SECONDS = 2
INFO_SECONDS = 5  # how long the bucket's making and replicas are believed
EXPECTED_SUBJECT = f"{EXPECTED}-Subject"
HYDRATED = {"Sync-Origin": "hydrate"}
DELETED = {"KV-Operation": "DEL"}


@dataclass(frozen=True)
class Info:
    """What writers need to know of the bucket. `epoch`: when it was made, in microseconds since 1970."""

    epoch: int
    replicas: int
    read_at: float


class AgentKeys:
    """Not shared between threads; what it remembers only saves reads."""

    def __init__(self, agent_id: UUID | str, epoch: int | None = None) -> None:
        self.agent_id, self.epoch = str(agent_id), epoch
        self.bucket = topology.buckets()["AGENT_STATE"]
        self._info: Info | None = None
        self._fence_revision: int | None = None

    # -- read -------------------------------------------------------------------------------------------------
    async def read(self, client: Client, key: str) -> Entry:
        """Return the newest entry as the leader knows it (a lone server is one)."""
        name = agent_state_key(self.agent_id, key)
        if (await self.info(client)).replicas == 1:
            return await read_entry(client, self.bucket, name, ANSWER_SECONDS)
        return await read_entry_of_leader(client, self.bucket, name, ANSWER_SECONDS)

    async def read_many(self, client: Client, keys: Sequence[str]) -> dict[str, Entry]:
        """Return the newest entries of those keys that have one, each as `read` does."""
        if (await self.info(client)).replicas > 1:
            entries = await asyncio.gather(*(self.read(client, key) for key in keys))
            return {key: entry for key, entry in zip(keys, entries, strict=True) if entry.revision}
        names = {agent_state_key(self.agent_id, key): key for key in keys}
        found = await self._read_last(client, [self.bucket.subject(name) for name in names])
        return {names[name]: entry for name, entry in found.items()}

    async def read_all(self, client: Client) -> dict[str, Entry]:
        """Return the newest entries of all keys of the agent, deleted ones included. On a cluster a replica answers:
        it may be a little old."""
        found: dict[str, Entry] = {}
        prefix = self.bucket.subject(f"{self.agent_id}.")
        request: dict[str, Any] = {"seq": 1, "next_by_subj": f"{prefix}>", "batch": MULTI_GET}
        is_complete = False
        while not is_complete:
            messages, is_complete = await direct_get(client.nc, self.bucket.stream, request, ANSWER_SECONDS)
            found |= {message.headers["Nats-Subject"]: to_entry(message) for message in messages}
            if not messages:
                break
            request["seq"] = to_entry(messages[-1]).revision + 1
        return {
            decode_key(subject.removeprefix(prefix)): entry
            for subject, entry in found.items()
            if not is_fence(subject)
        }

    async def _read_last(self, client: Client, subjects: Sequence[str]) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        for wanted in chunks(subjects, LAST_AT_ONCE):
            request = {"multi_last": wanted, "batch": MULTI_GET}
            messages, _ = await direct_get(client.nc, self.bucket.stream, request, ANSWER_SECONDS)
            found |= {
                self.bucket.key(message.headers["Nats-Subject"]): to_entry(message) for message in messages
            }
        return found

    async def last_sequence(self, client: Client) -> int:
        """Return the bucket's last sequence."""
        return int((await self._stream_info(client)).state.last_seq)

    def to_value(self, key: str, entry: Entry, epoch: int) -> StateValue:
        """Return a live entry as the API shows it. Raises Refused for what an agent wrote and is not JSON."""
        try:
            value = json.loads(entry.data)
        except ValueError as error:
            raise Refused(
                f"{self.agent_id}.{key} in KV is not JSON: {error}", "put a value over it"
            ) from error
        return StateValue(key, value, str(Version(epoch, entry.revision)), entry.seconds_left())

    # -- write ------------------------------------------------------------------------------------------------
    async def put(self, client: Client, key: str, data: bytes, ttl_seconds: int | None) -> Version:
        """Store, whatever was there. Raises StaleEpoch, Unreachable."""
        return await self._write(client, key, data, value_headers(ttl_seconds))

    async def delete(self, client: Client, key: str) -> Version:
        return await self._write(client, key, b"", DELETED)

    async def put_many(
        self, client: Client, values: Mapping[str, bytes], ttl_seconds: int | None
    ) -> dict[str, Version]:
        """Store several keys, pipelined, each for itself: after an error some may be stored. On a cluster those of a
        writer with an epoch go one after another, for the server takes one fenced write of an agent at a time."""
        headers = value_headers(ttl_seconds)
        info = await self.info(client)
        left, done = dict(values), dict[str, Version]()
        if self.epoch is None or info.replicas == 1:
            outcomes = await self._publish(client, values, headers)
            for key, outcome in outcomes.items():
                if outcome.sequence is not None:
                    done[key] = Version(info.epoch, outcome.sequence)
                    del left[key]
                elif outcome.code not in COLLIDED:
                    raise refusal(outcome)
        return done | {key: await self._write(client, key, data, headers) for key, data in left.items()}

    async def compare_and_set(
        self, client: Client, key: str, data: bytes | None, revision: int, ttl_seconds: int | None
    ) -> Version:
        """Store where the newest entry is `revision`, a live one (0: there is no live one); `data` None deletes.
        Raises VersionConflict, StaleEpoch, Unreachable."""
        headers = DELETED if data is None else value_headers(ttl_seconds)
        while True:
            condition = await self._condition(client, key, revision)
            outcome = await self._send(client, key, data or b"", {**headers, **condition})
            if outcome.sequence is not None:
                return Version((await self.info(client)).epoch, outcome.sequence)

    async def _condition(self, client: Client, key: str, revision: int) -> dict[str, str]:
        """Return the headers by which the server stores only if nothing moved since the key was read just now.

        One message has room for one condition. With an epoch it is the last sequence of all keys of the agent, read
        before the key and the fence: a change of either of them, or of any other key, means to look again.
        """
        everything = self.bucket.subject(f"{self.agent_id}.>")
        if self.epoch is None:
            entry = await self.read(client, key)
            condition = {EXPECTED: str(entry.revision)}
        else:
            last = await read_entry_of_leader(client, self.bucket, f"{self.agent_id}.>", ANSWER_SECONDS)
            condition = {EXPECTED: str(last.revision), EXPECTED_SUBJECT: everything}
            await self.look_at_fence(client)
            entry = await self.read(client, key)
        if (entry.revision if entry.is_live else 0) != revision:
            raise conflict(key)
        return condition | self._signature()

    async def refill(
        self, client: Client, rows: Mapping[str, tuple[str, int | None]], seen: Mapping[str, Entry]
    ) -> dict[str, Version]:
        """Store what PostgreSQL has, (JSON text, seconds to live) by key, where nothing came since `seen`; return what
        was stored. An agent's newer write is never replaced: the server compares."""
        messages = [
            Message(
                self.bucket.subject(agent_state_key(self.agent_id, key)),
                text.encode(),
                {**HYDRATED, **value_headers(ttl_seconds), EXPECTED: str(seen.get(key, ABSENT).revision)},
                self.bucket.stream,
            )
            for key, (text, ttl_seconds) in rows.items()
        ]
        epoch = (await self.info(client)).epoch
        outcomes = await client.publisher.publish(messages, ANSWER_SECONDS)
        return {
            key: Version(epoch, outcome.sequence)
            for key, outcome in zip(rows, outcomes, strict=True)
            if outcome.sequence is not None
        }

    async def _write(self, client: Client, key: str, data: bytes, headers: Mapping[str, str]) -> Version:
        while True:
            outcome = await self._send(client, key, data, {**headers, **await self._fence(client)})
            if outcome.sequence is not None:
                return Version((await self.info(client)).epoch, outcome.sequence)
            if outcome.code == WRONG_LAST_SEQUENCE:
                await self.look_at_fence(client)

    async def _send(self, client: Client, key: str, data: bytes, headers: Mapping[str, str]) -> Outcome:
        """Publish once; return the outcome if it is stored, or collided with something. Raises Unreachable, Refused."""
        name = agent_state_key(self.agent_id, key)
        outcome = await write_entry(client, self.bucket, name, data, headers, ANSWER_SECONDS)
        if not outcome.is_stored and outcome.code not in COLLIDED:
            raise refusal(outcome)
        return outcome

    async def _publish(
        self, client: Client, values: Mapping[str, bytes], headers: Mapping[str, str]
    ) -> dict[str, Outcome]:
        headers = {**headers, **await self._fence(client)}
        messages = [
            Message(self.bucket.subject(agent_state_key(self.agent_id, key)), data, headers)
            for key, data in values.items()
        ]
        return dict(zip(values, await client.publisher.publish(messages, ANSWER_SECONDS), strict=True))

    # -- fence ------------------------------------------------------------------------------------------------
    async def look_at_fence(self, client: Client) -> None:
        """Remember the fence as it is now. Raises StaleEpoch when a successor has taken over."""
        fence = await read_entry_of_leader(client, self.bucket, fence_key(self.agent_id), ANSWER_SECONDS)
        newest = read_epoch(fence)
        if self.epoch is not None and newest > self.epoch:
            raise StaleEpoch(
                f"agent {self.agent_id} is at epoch {newest}, the caller at {self.epoch}: a successor took over",
                "stop this process: another one works in its place",
            )
        self._fence_revision = fence.revision

    async def _fence(self, client: Client) -> dict[str, str]:
        """Return the headers of a fenced write; none for a writer without an epoch."""
        if self.epoch is None:
            return {}
        if self._fence_revision is None:
            await self.look_at_fence(client)
        condition = {
            EXPECTED: str(self._fence_revision),
            EXPECTED_SUBJECT: self.bucket.subject(fence_key(self.agent_id)),
        }
        return condition | self._signature()

    def _signature(self) -> dict[str, str]:
        return {} if self.epoch is None else {AGENT_EPOCH: str(self.epoch)}

    async def info(self, client: Client) -> Info:
        """Return what is known of the bucket, at most INFO_SECONDS old."""
        if self._info is None or time.monotonic() - self._info.read_at > INFO_SECONDS:
            found = await self._stream_info(client)
            replicas = found.config.num_replicas or 1
            self._info = Info(epoch_of(found.created), replicas, time.monotonic())
        return self._info

    async def _stream_info(self, client: Client) -> Any:
        try:
            return await client.jetstream.stream_info(self.bucket.stream)
        except nats.js.errors.APIError as error:
            raise Unreachable(
                f"bucket AGENT_STATE: {error.description}", "run manage.py bridge setup"
            ) from error


def read_epoch(fence: Entry) -> int:
    """Return the epoch that a fence holds; 0: there is none, the agent never had a successor."""
    if fence == ABSENT or not fence.is_live:
        return 0
    return int(json.loads(fence.data)["epoch"])


def conflict(key: str) -> VersionConflict:
    return VersionConflict(f"{key} is not what the caller had read", "read it again and decide anew")


def refusal(outcome: Outcome) -> Unreachable | Refused:
    """Return the error for a write that was not stored."""
    if outcome.code == TOO_LARGE:
        return Refused(outcome.text, "split the value over several keys")
    return Unreachable(
        f"bucket AGENT_STATE: {outcome.text}", "run manage.py bridge setup, see nats-server's log"
    )
