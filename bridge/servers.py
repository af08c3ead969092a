"""NATS_URL as nats-py should have it: one or several servers, comma separated, and who we are.

nats-py sends the user of the URL that it connects to. A cluster also tells it of servers that no URL names: these it
would greet without a user, and be refused. So the user is an option of the client, which goes to any server.
"""

from collections.abc import Iterable
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from pg.errors import Refused


def connect_options(url: str) -> dict[str, Any]:
    """Return `servers`, without users, and `user` with `password`, or `token`, or neither.

    Raises Refused when the servers name different users.
    """
    parts = [split(server) for server in split_servers(url)]
    users = {part.netloc.rpartition("@")[0] for part in parts} - {""}
    if len(users) > 1:
        raise Refused(
            f"NATS_URL: {where(url)} are named with different users",
            "the servers of one cluster know the same users: give each URL the same one",
        )
    return {"servers": [bare(part) for part in parts], **(credentials(users.pop()) if users else {})}


def credentials(text: str) -> dict[str, str]:
    """`user:password`, or a token alone, percent-encoded as in any URL."""
    user, colon, password = text.partition(":")
    return {"user": unquote(user), "password": unquote(password)} if colon else {"token": unquote(user)}


def where(url: str) -> str:
    """Return the servers' addresses for people, without users and passwords."""
    return ", ".join(split(server).netloc.rpartition("@")[2] for server in split_servers(url))


def split_servers(url: str) -> Iterable[str]:
    return [part.strip() for part in url.split(",") if part.strip()]


def split(server: str) -> SplitResult:
    """`host:port` alone is a server too."""
    return urlsplit(server if "://" in server else f"nats://{server}")


def bare(part: SplitResult) -> str:
    return part._replace(netloc=part.netloc.rpartition("@")[2]).geturl()
