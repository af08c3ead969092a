"""The home page: the fleet at a glance."""

from typing import Any

from django.http import HttpRequest


def fill_home(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    return context
