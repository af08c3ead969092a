"""What a handler is given."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime
from functools import cached_property
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async

from agents.state import read_state, write_state
from tasks.claim import Claimed, is_mine, set_progress
from tasks.dependencies import read_inputs
from tasks.enqueue import enqueue
from tasks.task_pauses import stand_still


class TaskContext:
    """One attempt at a task. In async handlers use the methods that begin with `a`."""

    def __init__(self, claimed: Claimed) -> None:
        self._claimed = claimed
        self.task_id: UUID = claimed.task_id
        self.task_type: str = claimed.task_type
        self.payload: Any = claimed.payload
        self.attempt: int = claimed.attempt  # from 1
        self.agent_id: UUID = claimed.worker  # the worker process, itself a registered agent
        self.timeout_seconds: float = claimed.timeout_seconds
        self._is_lost = False
        # what measures the attempt's time stops for as long as the handler stands still: set by whoever measures
        self.stopped_clocks: list[Callable[[], AbstractContextManager[None]]] = []

    @cached_property
    def logger(self) -> "logging.LoggerAdapter[logging.Logger]":
        """Logs as `tasks.<type>`, with the task's id."""
        return logging.LoggerAdapter(
            logging.getLogger(f"tasks.{self.task_type}"), {"task_id": str(self.task_id)}
        )

    def lose(self) -> None:
        """Note that the task was cancelled or taken over (called by the worker's heartbeat)."""
        self._is_lost = True

    def progress(self, percent: float | None = None, note: str = "") -> bool:
        """Show how far the work is, 0 to 100; return False where the task is not ours any more. One statement."""
        if percent is not None and not 0 <= percent <= 100:
            raise ValueError(f"percent={percent}: must be 0 to 100")
        return self._keep(set_progress(self._claimed, percent, note))

    def heartbeat(self) -> bool:
        """Return whether the task is still ours. One query. The worker renews the lease, no handler has to."""
        return self._keep(is_mine(self._claimed))

    def is_cancelled(self) -> bool:
        """Tell whether the work is for nothing: cancelled, or taken over after a lost lease. One query."""
        return not (not self._is_lost and self.heartbeat())

    def wait_while_paused(self) -> bool:
        """Stand still here while an operator has paused the task; return whether it is still ours.

        One query where it is not paused. The lease, the slot and the resources are kept, and the time limit does not
        run. Call it where the work may rest: no transaction open, nothing half done.
        """
        with self._clocks_stopped():
            return self._keep(stand_still(self._claimed, lambda: self._is_lost))

    @contextmanager
    def _clocks_stopped(self) -> Iterator[None]:
        with ExitStack() as stack:
            for stop in self.stopped_clocks:
                stack.enter_context(stop())
            yield

    def inputs(self) -> dict[str, Any]:
        """Return the results of the tasks that this one has as `data` dependencies, by name. One query."""
        return read_inputs(self.task_id)

    def spawn(self, task_type: str, payload: Any = None, **options: Any) -> UUID:
        """Enqueue a child task; return its id. `options` as in `tasks.enqueue.enqueue`."""
        return enqueue(
            task_type, payload, **{"parent": self.task_id, "created_by_agent": self.agent_id, **options}
        )

    def read_state(self) -> dict[str, Any]:
        """Return the state of the agent that does this work: key to value. One query."""
        return read_state(self.agent_id)

    def write_state(self, values: Mapping[str, Any], expires_at: datetime | None = None) -> None:
        """Set keys of that agent's state; `expires_at` None: they do not expire. As in `agents.state.write_state`."""
        write_state(self.agent_id, values, expires_at=expires_at)

    async def aprogress(self, percent: float | None = None, note: str = "") -> bool:
        return await sync_to_async(self.progress)(percent, note)

    async def aheartbeat(self) -> bool:
        return await sync_to_async(self.heartbeat)()

    async def ais_cancelled(self) -> bool:
        return await sync_to_async(self.is_cancelled)()

    async def await_while_paused(self) -> bool:
        with self._clocks_stopped():  # here, not in the other thread: they belong to this one
            return self._keep(await sync_to_async(stand_still)(self._claimed, lambda: self._is_lost))

    async def ainputs(self) -> dict[str, Any]:
        return await sync_to_async(self.inputs)()

    async def aspawn(self, task_type: str, payload: Any = None, **options: Any) -> UUID:
        return await sync_to_async(self.spawn)(task_type, payload, **options)

    async def aread_state(self) -> dict[str, Any]:
        return await sync_to_async(self.read_state)()

    async def awrite_state(self, values: Mapping[str, Any], expires_at: datetime | None = None) -> None:
        await sync_to_async(self.write_state)(values, expires_at)

    def _keep(self, is_ours: bool) -> bool:
        self._is_lost = self._is_lost or not is_ours
        return is_ours
