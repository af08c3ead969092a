"""What `sync_interval: always` costs beside nats-server as it is shipped, the same client on the same disk."""

import time

from bench.frame import Report, percentile
from bench.frame.servers import Installation
from bridge.connection import Client, Link
from bridge.publisher import Message
from cockpit.servers import Nats, Running
from cockpit.servers.base import write_private

DATA = b"x" * 200
STREAM = "KV_BENCH"


class AsShipped(Nats):
    """The embedded server without its `sync_interval`."""

    def configure(self) -> None:
        super().configure()
        lines = self.configuration.read_text().splitlines(keepends=True)
        write_private(self.configuration, "".join(line for line in lines if "sync_interval" not in line))


def measure(report: Report, found: Installation) -> None:
    single, bulk = report.rows(1_000, 200), report.rows(5_000, 1_000)
    home = found.home / "as-shipped"
    home.mkdir(exist_ok=True)
    with Running(AsShipped(home)) as shipped:
        servers = {"": found.nats.server.url(), "as shipped": shipped.server.url()}
        for peer, url in servers.items():
            times, rate = run(url, single, bulk)
            figures = {
                "put_p50": (percentile(times, 50), "ms", single),
                "put_p99": (percentile(times, 99), "ms", single),
            }
            figures["put_pipelined"] = (rate, "puts/s", bulk)
            for name, (value, unit, rows) in figures.items():
                if peer:
                    report.add_peer(name, peer, value)
                else:
                    report.add(name, value, unit, rows, "sync_interval: always")


def run(url: str, single: int, bulk: int) -> tuple[list[float], float]:
    """Return the times of puts one after another in milliseconds, and how many a second go in pipelined."""
    link = Link(url)

    async def put(client: Client) -> tuple[list[float], float]:
        await client.jetstream.add_stream(name=STREAM, subjects=["$KV.BENCH.>"], max_msgs_per_subject=1)
        times = []
        for number in range(single):
            began = time.perf_counter()
            (outcome,) = await client.publisher.publish([Message(f"$KV.BENCH.{number}", DATA)], 10)
            assert outcome.is_stored, outcome
            times.append((time.perf_counter() - began) * 1_000)
        began = time.perf_counter()
        outcomes = await client.publisher.publish([Message(f"$KV.BENCH.{n}", DATA) for n in range(bulk)], 60)
        seconds = time.perf_counter() - began
        assert all(outcome.is_stored for outcome in outcomes)
        await client.jetstream.delete_stream(STREAM)
        return times, bulk / seconds

    try:
        return link.call(put, 120)
    finally:
        link.close()
