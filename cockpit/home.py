"""The home page, and the part of it that renews itself."""

from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.views.decorators.cache import never_cache

from cockpit.fleet import fleet

NEEDED = ("agents.view_agent", "tasks.view_task")


def fill_home(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Add the fleet for those who may see it; others find the list of what they may open."""
    return {**context, "fleet": fleet() if may_see_fleet(request) else None}


@never_cache
def show_fleet(request: HttpRequest) -> HttpResponse:
    """The renewed part alone. Refused with 403 where the admin would lead to the login page: a script reads it."""
    if not may_see_fleet(request):
        raise PermissionDenied
    return TemplateResponse(request, "cockpit/fleet.html", {"fleet": fleet()})


def may_see_fleet(request: HttpRequest) -> bool:
    user = request.user
    return user.is_active and user.is_staff and user.has_perms(NEEDED)
