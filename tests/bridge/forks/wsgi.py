"""For gunicorn --preload: the master uses the bridge before it forks."""

import json
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from bridge import connection
from config.wsgi import application as _ready  # noqa: F401  (Django is set up)
from tests.bridge.forks.writing import client_id, save

MASTER = connection.call(client_id)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    asked = {name: values[0] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
    told = save(asked["agent_id"], asked["key"]) | {"master": MASTER}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(told).encode()]
