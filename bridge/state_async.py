"""The state API for asynchronous code: as `bridge.state`, with a connection of the caller's own loop.

async with AsyncAgentState(agent_id, epoch=epoch) as state:
    await state.put("memory.short", {"seen": 3})
    async for change in state.watch():
        ...
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Self, TypeVar

import nats.errors
from asgiref.sync import sync_to_async

from bridge.connection import HINT
from bridge.loop_client import close_loop_client, loop_client
from bridge.state_flow import StateFlow, Work
from bridge.state_values import StateChange
from bridge.state_watch import RETRY_SECONDS, STEP_SECONDS, Watch
from pg.errors import Unreachable

T = TypeVar("T")

WAIT_SECONDS = 3


class AsyncAgentState(StateFlow):
    """Not for two tasks at once. Leaving the `async with` block closes the loop's connection: for a program that ends
    then; others just make instances."""

    async def ask(self, work: Work[T]) -> T:
        client = await loop_client()
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                return await work(client)
        except (TimeoutError, nats.errors.Error) as error:
            raise Unreachable(f"NATS: {type(error).__name__} {error}".rstrip(), HINT) from error

    async def pg(self, work: Callable[..., T], *args: Any, **options: Any) -> T:
        return await sync_to_async(work)(*args, **options)

    async def watch(self, *, wait_seconds: float | None = None) -> AsyncIterator[StateChange]:
        """Give what the keys hold now, then each change; end after `wait_seconds` without one (None: never)."""
        watch, silent_since = Watch(self.agent_id), time.monotonic()
        try:
            while wait_seconds is None or time.monotonic() - silent_since < wait_seconds:
                for change in await poll(watch):
                    yield change
                    silent_since = time.monotonic()
        finally:
            await watch.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await close_loop_client()


async def poll(watch: Watch) -> list[StateChange]:
    """Return what the watch saw; nothing while NATS is away."""
    try:
        return await watch.poll(await loop_client(), STEP_SECONDS)
    except Unreachable:
        await asyncio.sleep(RETRY_SECONDS)
        return []
