"""Pages read from replicas, show what their reader has just written, and outlive a failover when they only read."""

import logging
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from pg import reads
from pg.retry import retrying

log = logging.getLogger(__name__)
COOKIE = "mistersmith_seen"  # the position in the WAL that the reader's last write has reached
COOKIE_SECONDS = 60  # a replica that is further behind gets no reads at all
SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
PAGE_SECONDS = 10
GetResponse = Callable[[HttpRequest], HttpResponse]


class ReadsMiddleware:
    """A safe request reads from replicas, as soon as they show its reader's last write; any other one from the primary.

    The outermost of those that ask the database.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        is_safe = request.method in SAFE
        with (
            reads.unit(seen_by(request)) as mark,
            reads.reading_from(reads.REPLICAS if is_safe else reads.PRIMARY),
        ):
            response = self.get_response(request)
            if settings.REPLICA_ALIASES and (mark.has_written or not is_safe):
                remember(mark, response)
        return response


def remember(mark: reads.Mark, response: HttpResponse) -> None:
    """Let the reader's next requests know what they must see. One query to the primary."""
    mark.has_written = True
    try:
        lsn = reads.needed_lsn()
    except Exception as error:  # what was asked for is done; the next page may be a moment old
        log.warning("the position of a write is unknown: %s", error)
        return
    options: dict[str, Any] = {"secure": settings.SESSION_COOKIE_SECURE, "httponly": True, "samesite": "Lax"}
    response.set_cookie(COOKIE, f"{lsn:x}", COOKIE_SECONDS, **options)


def seen_by(request: HttpRequest) -> int:
    try:
        return int(request.COOKIES.get(COOKIE, "0")[:16], 16)
    except ValueError:
        return 0


class RetryMiddleware:
    """Runs the view of a safe request again when it lost its server, for at most PAGE_SECONDS: it may run any number of
    times. The innermost of all."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_view(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> HttpResponse | None:
        if request.method not in SAFE:
            return None
        response: HttpResponse = retrying(lambda: rendered(view(request, *args, **kwargs)), PAGE_SECONDS)
        return response


def rendered(response: Any) -> Any:
    """Render now: a template asks the database as well."""
    return response.render() if callable(getattr(response, "render", None)) else response
