"""Three nats-servers on this machine in one JetStream cluster, as shipped: replicas instead of `sync_interval`."""

import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cockpit.servers import Nats, Running
from cockpit.servers.base import write_private
from cockpit.servers.ports import HOST, free_port
from tests.bridge.conftest import wait_until

SECONDS = 60
CLUSTER = """
server_name: node{number}
cluster {{
  name: mistersmith
  listen: "{host}:{port}"
  routes: [{routes}]
}}
"""


@dataclass(frozen=True)
class Node(Nats):
    """One server of the cluster. `ports` are the route ports of all."""

    number: int = 0
    ports: tuple[int, ...] = ()

    def configure(self) -> None:
        super().configure()
        lines = self.configuration.read_text().splitlines(keepends=True)
        kept = [line for line in lines if not line.strip().startswith(("server_name", "sync_interval"))]
        routes = ", ".join(f'"nats://{HOST}:{port}"' for port in self.ports)
        own = CLUSTER.format(number=self.number, host=HOST, port=self.ports[self.number], routes=routes)
        write_private(self.configuration, "".join(kept) + own)

    def password(self) -> str:
        return "one-for-all-nodes"

    def is_healthy(self) -> bool:
        """Whether it has caught up with all its streams."""
        try:
            with urllib.request.urlopen(f"{self.monitor_url()}/healthz", timeout=2):  # noqa: S310  (our own)
                return True
        except OSError:
            return False

    def jsz(self, query: str = "") -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.monitor_url()}/jsz{query}", timeout=2) as answer:  # noqa: S310
            told: dict[str, Any] = json.load(answer)
            return told


class Cluster:
    """The nodes, each a process that may be killed and started again on its data."""

    def __init__(self, folder: Path) -> None:
        ports = tuple(free_port() for _ in range(3))
        homes = [folder / str(number) for number in range(3)]
        for home in homes:
            home.mkdir(parents=True)
        self.nodes = [Running(Node(home, number, ports)) for number, home in enumerate(homes)]

    @property
    def url(self) -> str:
        return ",".join(node.server.url() for node in self.nodes)

    def start(self) -> None:
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.server.wait_ready(SECONDS, node.is_alive)
        self.wait_until_whole()

    def wait_until_whole(self) -> None:
        """Wait until all nodes have caught up and one of them leads the cluster."""
        wait_until(lambda: all(node.server.is_healthy() for node in self.nodes), SECONDS)
        wait_until(
            lambda: self.meta().get("cluster_size") == len(self.nodes) and self.meta().get("leader"), SECONDS
        )

    def meta(self) -> dict[str, Any]:
        return self.nodes[0].server.jsz().get("meta_cluster", {})

    def leader_of(self, link: Any, stream: str) -> Running:
        """The node that leads a stream."""

        async def look(client: Any) -> str | None:
            info = await client.jetstream.stream_info(stream)
            return info.cluster.leader if info.cluster else None

        name = wait_until(lambda: ask(lambda: link.call(look, 5)), SECONDS)
        return self.nodes[int(name.removeprefix("node"))]

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()


def ask(question: Callable[[], Any]) -> Any:
    """Return the answer; None while the cluster elects a leader."""
    try:
        return question()
    except Exception:
        return None


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
