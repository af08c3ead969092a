"""Free ports on loopback, below the range that the kernel hands out for outgoing connections."""

import random
import socket

from pg.errors import Refused

FIRST, LAST = 20_001, 32_767
HOST = "127.0.0.1"


def free_port() -> int:
    """Return a port that nobody listens on now; another process may still take it."""
    for _ in range(1_000):
        port = random.randint(FIRST, LAST)  # noqa: S311  (nothing secret)
        if is_free(port):
            return port
    raise Refused(f"no free port from {FIRST} to {LAST}", "end some of the programs that listen there")


def is_free(port: int, host: str = HOST) -> bool:
    """Tell whether a server could listen on `host:port` now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError:
            return False
    return True
