"""An id for each request: the caller's own, or a new one, in its log lines and in its answer."""

import re
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from monitoring.logs import log_ids
from pg.uuid7 import uuid7

HEADER = "X-Request-ID"
ACCEPTED = re.compile(r"[A-Za-z0-9._-]{1,64}")  # whatever else would let a caller write lines of our log


class RequestId:
    """Takes `X-Request-ID` where a proxy sent a usable one, makes a UUIDv7 where not, and answers with it."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request_id = choose_id(request.headers.get(HEADER, ""))
        with log_ids(request_id=request_id):
            response = self.get_response(request)
        response[HEADER] = request_id
        return response


def choose_id(given: str) -> str:
    """Return the given id, or a new one where it is none."""
    return given if ACCEPTED.fullmatch(given) else str(uuid7())
