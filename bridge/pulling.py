"""A part that reads one durable consumer, and leaves nothing of it behind when it ends."""

import contextlib
from collections.abc import Callable, Mapping

from bridge import connection
from bridge.connection import Client
from bridge.lags import Lags
from bridge.part import Part
from bridge.puller import Pulled, Puller
from pg.errors import Unreachable

WAIT_SECONDS = 0.5
CALL_SECONDS = 10


class Pulling(Part):
    """Any number may read a consumer at once; each gets other messages."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.lags = Lags()
        self.pending = 0  # messages on the server that nobody has yet
        self._puller: Puller | None = None

    def begin(
        self,
        stream: str,
        consumer: str,
        epoch: int,
        is_known: Callable[[Mapping[str, str]], bool] | None = None,
    ) -> None:
        """Ask the consumer from now on; `is_known` as in Puller. Raises Unreachable."""

        async def start(client: Client) -> Puller:
            if self._puller:
                await self._puller.stop()
            return await Puller(client.nc, stream, consumer, epoch, is_known).start()

        self._puller = connection.call(start)

    def pull(self, most: int, enough: int, linger_seconds: float) -> Pulled:
        """See Puller.pull. Raises Unreachable."""
        puller = self._puller
        assert puller is not None  # noqa: S101  (prepare began)
        pulled = connection.call(
            lambda _: puller.pull(most, enough, WAIT_SECONDS, linger_seconds), CALL_SECONDS
        )
        self.pending = pulled.pending
        return pulled

    def count_passed(self) -> int:
        """Return how many messages the puller has passed by since it was asked last."""
        if self._puller is None:
            return 0
        passed, self._puller.passed = self._puller.passed, 0
        return passed

    def end(self) -> None:
        """Have the server keep for others what it was asked for: the connection may live on."""
        puller, self._puller = self._puller, None
        if puller:
            with contextlib.suppress(Unreachable):  # then nothing waits there either
                connection.call(lambda _: puller.stop(), CALL_SECONDS)
