"""System checks of the settings, with ids and hints (see `manage.py check`)."""

import ipaddress
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register

LOOPBACK_NAMES = {"localhost", "[::1]", "testserver"}


def is_loopback(host: str) -> bool:
    """Tell whether `host` (a name, an address, or an ALLOWED_HOSTS entry) means this machine only."""
    if host in LOOPBACK_NAMES or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@register(Tags.security)
def check_debug_stays_on_loopback(**kwargs: Any) -> list[CheckMessage]:
    """DEBUG shows settings and source to whoever can reach the page: never beyond this machine."""
    hosts = [host for host in (settings.WEB_BIND, *settings.ALLOWED_HOSTS) if not is_loopback(host)]
    if not settings.DEBUG or not hosts:
        return []
    return [
        Error(
            f"DEBUG is on and the web server can be reached as {', '.join(hosts)}.",
            hint="unset DEBUG, or keep MISTERSMITH_WEB_BIND and ALLOWED_HOSTS on loopback.",
            id="config.E001",
        )
    ]


@register(Tags.security)
def check_production_secrets(**kwargs: Any) -> list[CheckMessage]:
    """In production the secret key comes from the environment, so that all machines share one."""
    from config.env import env

    if not settings.PRODUCTION or env.str("SECRET_KEY", default=""):
        return []
    return [
        Error(
            "PRODUCTION is on and SECRET_KEY is not set.",
            hint="set SECRET_KEY to 50 or more random characters, the same on every machine.",
            id="config.E002",
        )
    ]
