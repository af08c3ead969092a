"""System checks of CACHES: a timeout that the bucket cannot keep is found at the start, not by the first page."""

from collections.abc import Iterator, Mapping
from typing import Any

from django.conf import settings
from django.core.cache import caches
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from bridge.cache import InvalidTimeout, QueryCache


@register(Tags.caches)
def check_caches(**kwargs: Any) -> list[CheckMessage]:
    return [message for alias in settings.CACHES for message in check_cache(alias)]


def check_cache(alias: str) -> Iterator[CheckMessage]:
    """Check one cache; those of other backends are none of our business."""
    cache = caches[alias]
    if not isinstance(cache, QueryCache):
        return
    try:
        cache.ttl_seconds()
    except InvalidTimeout as error:
        yield Error(f"CACHES['{alias}']: {error}.", hint=error.hint, id="bridge.E001")
    given: Mapping[str, Any] = settings.CACHES[alias]
    if {"MAX_ENTRIES", "CULL_FREQUENCY"} & (given.get("OPTIONS") or {}).keys():
        yield Warning(
            f"CACHES['{alias}']: MAX_ENTRIES and CULL_FREQUENCY have no effect, the bucket is culled by bytes.",
            hint=f"set max_bytes of {cache.bucket.name} in BRIDGE_OVERRIDES, or leave them out.",
            id="bridge.W001",
        )
