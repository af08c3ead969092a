"""A connection to NATS on the caller's own event loop, for asynchronous code: one per loop, made at first use.

Django's synchronous side has `bridge.connection`; crossing over to its thread would cost an asynchronous caller more
than the request itself.
"""

import asyncio
import weakref

import nats
import nats.errors
from django.conf import settings

from bridge.breaker import Breaker
from bridge.connection import API_SECONDS, HINT, PENDING_BYTES, RECONNECT_SECONDS, Client
from bridge.publisher import Publisher
from bridge.servers import connect_options
from pg.errors import Unreachable

FIRST_SECONDS = 2

_clients: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[Client]]" = (
    weakref.WeakKeyDictionary()
)
breaker = Breaker()


async def loop_client() -> Client:
    """Return the running loop's client. Raises Unreachable: at once while a lost connection is not back, and for a few
    seconds after a first one could not be made."""
    loop = asyncio.get_running_loop()
    making = _clients.get(loop)
    if making is None or (making.done() and (making.cancelled() or making.exception())):
        if breaker.is_open():
            raise Unreachable("NATS did not answer a moment ago", HINT)
        making = _clients[loop] = loop.create_task(connect())
    client = await asyncio.shield(making)
    if not client.nc.is_connected:
        raise Unreachable("the connection to NATS is lost, looking for it", HINT)
    return client


async def connect() -> Client:
    """Make a connection that is looked for as long as the loop runs. Raises Unreachable."""
    try:
        async with asyncio.timeout(FIRST_SECONDS):
            nc = await nats.connect(
                **connect_options(settings.NATS_URL),
                name="mistersmith",
                reconnect_time_wait=RECONNECT_SECONDS,
                max_reconnect_attempts=-1,
                ping_interval=5,
                max_outstanding_pings=2,
                pending_size=PENDING_BYTES,
                error_cb=ignore,
            )
        return Client(nc, nc.jetstream(timeout=API_SECONDS), await Publisher(nc).start())
    except (OSError, nats.errors.Error, TimeoutError) as error:
        breaker.trip()
        raise Unreachable(f"NATS: {type(error).__name__} {error}".rstrip(), HINT) from error


async def ignore(error: Exception) -> None:
    """Callers get their own errors; nats-py would log each try of an outage."""


async def close_loop_client() -> None:
    """Close the running loop's connection, before the loop ends; the next call makes a new one."""
    making = _clients.pop(asyncio.get_running_loop(), None)
    if making is None:
        return
    making.cancel()
    if making.done() and not making.cancelled() and not making.exception():
        await making.result().nc.close()
