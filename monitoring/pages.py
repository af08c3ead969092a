"""/healthz, /readyz and /metrics: for probes and scrapers, without a session."""

from hmac import compare_digest
from ipaddress import ip_address

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from monitoring.exposition import expose
from monitoring.registry import checks, run_check

FORWARDED = ("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_X_REAL_IP")


@never_cache
@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """The process answers. Asks no server: a restart would not mend one that is down."""
    return HttpResponse("ok\n", content_type="text/plain")


@never_cache
@require_safe
def readyz(request: HttpRequest) -> HttpResponse:
    """200 when this process can serve requests, 503 with the reasons when not. Details are for those who may see
    metrics; everybody else gets names only."""
    may_read = may_see_metrics(request)
    items = [
        {
            "check": check.name,
            "ok": finding.ok,
            **({"detail": finding.detail, "hint": finding.hint} if may_read else {}),
        }
        for check in checks()
        if check.gates_ready
        for finding in run_check(check)
    ]
    ready = bool(items) and all(item["ok"] for item in items)
    return JsonResponse({"ready": ready, "checks": items}, status=200 if ready else 503)


@never_cache
@require_safe
def metrics_page(request: HttpRequest) -> HttpResponse:
    if not may_see_metrics(request):
        return HttpResponse("send METRICS_TOKEN as a bearer token\n", status=401, content_type="text/plain",
                            headers={"WWW-Authenticate": "Bearer"})  # fmt: skip
    page, content_type = expose(request.headers.get("Accept", ""))
    return HttpResponse(page, content_type=content_type)


def may_see_metrics(request: HttpRequest) -> bool:
    """With METRICS_TOKEN: who sends it as a bearer token. Without: whoever asks from this machine itself, not through a
    proxy; in production nobody."""
    if token := settings.METRICS_TOKEN:
        given = request.headers.get("Authorization", "")
        return compare_digest(given.encode(), f"Bearer {token}".encode())
    return not settings.PRODUCTION and is_from_here(request)


def is_from_here(request: HttpRequest) -> bool:
    try:
        peer = ip_address(request.META.get("REMOTE_ADDR", ""))
    except ValueError:
        return False
    return peer.is_loopback and not any(name in request.META for name in FORWARDED)
