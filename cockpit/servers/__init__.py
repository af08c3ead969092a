"""PostgreSQL, nats-server and Valkey from pinned wheels, run on this machine when no URL names the user's own.

Nothing here imports Django: it works before settings can be loaded, for `up` and for the tests alike.
A server is a value over a home directory; whoever runs it (supervisord, a test) is somebody else:

    server = Postgres(home)
    server.prepare()          # once or many times: data directory, password, configuration, port
    server.command()          # what to run in the foreground, under the leash
    server.wait_ready(30)     # until it answers
    server.url()              # with credentials
"""

import os
from pathlib import Path

from cockpit.servers.base import Server, ServerError
from cockpit.servers.nats import Nats
from cockpit.servers.postgres import Postgres
from cockpit.servers.running import Running
from cockpit.servers.valkey import Valkey

__all__ = ["Nats", "Postgres", "Running", "Server", "ServerError", "Valkey", "all_servers"]


def all_servers(home: Path) -> list[Server]:
    """Return the embedded servers over `home`, in the order in which they start."""
    return [Postgres(home, archive=backup_folder(home)), Nats(home), Valkey(home)]


def backup_folder(home: Path) -> Path:
    """Return the folder of settings.BACKUP_DIR, which cannot be read this early."""
    return Path(os.environ.get("MISTERSMITH_BACKUP_DIR") or home / "backups").resolve()
