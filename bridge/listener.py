"""A subscription to core NATS that is made anew after each trouble, and given up in the end."""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import nats.errors
from nats.aio.msg import Msg

from bridge import connection
from bridge.connection import Client
from pg.errors import Unreachable


class Listener:
    """Calls `hear` with each message of `subject`; those in the same queue group share them."""

    def __init__(self, subject: str, hear: Callable[[Msg], Awaitable[None]], queue: str = "") -> None:
        self.subject, self.hear, self.queue = subject, hear, queue
        self._subscription: Any = None

    def begin(self) -> None:
        """Listen from now on, once. Raises Unreachable."""
        connection.call(self._begin)

    def end(self) -> None:
        """Leave the messages to others: the connection may live on."""
        with contextlib.suppress(Unreachable):  # then nobody sends us any
            connection.call(self._leave)

    async def _begin(self, client: Client) -> None:
        await self._leave(client)
        self._subscription = await client.nc.subscribe(self.subject, queue=self.queue, cb=self.hear)

    async def _leave(self, client: Client) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(nats.errors.Error):  # it ended with its connection
                await subscription.unsubscribe()
