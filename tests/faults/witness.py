"""Reads a bucket as a client in any language would: each stored value, in the stream's order, nothing of ours used."""

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import nats


class Witness:
    """Listens to a bucket in a thread of its own. `latest` is what each key holds, `older` how often a value came after
    a newer one, as `number` reads them."""

    def __init__(self, url: str, bucket: str, number: Callable[[Any], int]) -> None:
        self.latest: dict[str, int] = {}
        self.older = 0
        self.seen = 0
        self._url, self._bucket, self._number = url, bucket, number
        self._ready, self._done = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen()), daemon=True)

    def __enter__(self) -> "Witness":
        self._thread.start()
        assert self._ready.wait(30), f"no consumer on {self._bucket}"
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(30)

    async def _listen(self) -> None:
        client = await nats.connect(self._url)
        subject = f"$KV.{self._bucket}.>"
        await client.jetstream().subscribe(subject, ordered_consumer=True, cb=self._note)
        self._ready.set()
        await asyncio.to_thread(self._done.wait)
        await client.close()

    async def _note(self, message: Any) -> None:
        key = message.subject.removeprefix(f"$KV.{self._bucket}.")
        number = self._number(json.loads(message.data)) if message.data else 0
        self.older += number < self.latest.get(key, 0)
        self.latest[key] = number
        self.seen += 1
