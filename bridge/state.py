"""The state API: one agent's state, from KV as long as NATS answers, else from PostgreSQL; the same rules both ways.

    from bridge.state import AgentState

    state = AgentState(agent.agent_id, epoch=agent.epoch)
    state.put("memory.short", {"seen": 3}, ttl_seconds=600)
    seen = state.read("memory.short")                     # a StateValue, or None
    state.compare_and_set("memory.short", {"seen": 4}, seen.version)

`bridge.state_async.AsyncAgentState` has the same methods as coroutines. docs/state.md tells what holds when.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from typing import Any, TypeVar
from uuid import UUID

from bridge.breaker import Breaker
from bridge.connection import call
from bridge.state_flow import StateFlow, Work
from bridge.state_values import StateChange, StateValue
from bridge.state_watch import RETRY_SECONDS, STEP_SECONDS, Watch
from pg.errors import Unreachable

T = TypeVar("T")

WAIT_SECONDS = 3  # for NATS; then PostgreSQL serves, for a few seconds without asking NATS again
breaker = Breaker()


class AgentState:
    """`epoch`: the caller's, so that a successor's state is safe from it; None: not fenced, for operators and for code
    that is not the agent itself. One instance per thread."""

    def __init__(self, agent_id: UUID | str, epoch: int | None = None) -> None:
        self._flow = SyncFlow(agent_id, epoch)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value, or `default` where there is none."""
        return finish(self._flow.get(key, default))

    def read(self, key: str) -> StateValue | None:
        """Return value and version; None: there is no such key, or it has expired."""
        return finish(self._flow.read(key))

    def read_many(self, keys: Collection[str] | None = None) -> dict[str, StateValue]:
        """Return those of the keys that there are; None: all of the agent's."""
        return finish(self._flow.read_many(keys))

    def put(self, key: str, value: Any, *, ttl_seconds: int | None = None) -> str:
        """Set a key, whatever was there; return its version. Raises StaleEpoch, ValueTooLarge, Refused."""
        return finish(self._flow.put(key, value, ttl_seconds=ttl_seconds))

    def put_many(self, values: Mapping[str, Any], *, ttl_seconds: int | None = None) -> dict[str, str]:
        """Set several keys; return their versions."""
        return finish(self._flow.put_many(values, ttl_seconds=ttl_seconds))

    def compare_and_set(self, key: str, value: Any, version: str, *, ttl_seconds: int | None = None) -> str:
        """Set a key where it is still `version` (`absent`: none); return the new one. Raises VersionConflict."""
        return finish(self._flow.compare_and_set(key, value, version, ttl_seconds=ttl_seconds))

    def delete(self, key: str, *, version: str | None = None) -> None:
        """Delete a key; with `version` only where it is still that. Raises VersionConflict, StaleEpoch."""
        finish(self._flow.delete(key, version=version))

    def watch(self, *, wait_seconds: float | None = None) -> Iterator[StateChange]:
        """Give what the keys hold now, then each change; end after `wait_seconds` without one (None: never)."""
        watch, silent_since = Watch(self._flow.agent_id), time.monotonic()
        try:
            while wait_seconds is None or time.monotonic() - silent_since < wait_seconds:
                for change in poll(watch):
                    yield change
                    silent_since = time.monotonic()
        finally:
            with contextlib.suppress(Unreachable):
                call(lambda client: watch.stop(), WAIT_SECONDS)


def poll(watch: Watch) -> list[StateChange]:
    """Return what the watch saw; nothing while NATS is away."""
    try:
        return call(lambda client: watch.poll(client, STEP_SECONDS), STEP_SECONDS + WAIT_SECONDS)
    except Unreachable:
        time.sleep(RETRY_SECONDS)
        return []


class SyncFlow(StateFlow):
    """Whose coroutines never wait for a loop: they block, and are done when they return."""

    async def ask(self, work: Work[T]) -> T:
        if breaker.is_open():
            raise Unreachable("NATS did not answer a moment ago")
        try:
            return call(work, WAIT_SECONDS)
        except Unreachable:
            breaker.trip()
            raise

    async def pg(self, work: Callable[..., T], *args: Any, **options: Any) -> T:
        return work(*args, **options)


def finish(flow: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine of a SyncFlow to its end, here and now."""
    try:
        flow.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    flow.close()
    raise RuntimeError("a SyncFlow waited for an event loop")
