"""The search page: facts by their meaning, their words, or both, as `manage.py knowledge search` finds them."""

from typing import Any

from django import forms
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from knowledge.errors import KnowledgeError
from knowledge.hybrid import MAX_QUERY_CHARACTERS, Found, search
from knowledge.models import Fact

SHOWN_HITS = 20
MODES = [("hybrid", "By meaning and words"), ("semantic", "By meaning"), ("text", "By words")]


class SearchForm(forms.Form):
    """What to look for. `as_of` is a moment in UTC: what held then; empty: what holds now."""

    q = forms.CharField(
        label="Search",
        max_length=MAX_QUERY_CHARACTERS,
        widget=UnfoldAdminTextInputWidget(attrs={"type": "search", "autofocus": True}),
    )
    mode = forms.ChoiceField(label="How", choices=MODES, required=False, widget=UnfoldAdminSelectWidget)
    entity_type = forms.CharField(
        label="Only entities of type", max_length=100, required=False, widget=UnfoldAdminTextInputWidget
    )
    as_of = forms.DateTimeField(
        label="As of (UTC)",
        required=False,
        widget=UnfoldAdminTextInputWidget(attrs={"type": "datetime-local", "step": "1"}),
    )


def search_page(request: HttpRequest, model_admin: Any) -> HttpResponse:
    """403 for who may not view facts. Never fails for a query: what is wrong with it is said on the page."""
    if not model_admin.has_view_permission(request):
        raise PermissionDenied
    form = SearchForm(request.GET if "q" in request.GET else None)
    found, problem = look(form) if form.is_valid() else (None, None)
    context = {
        **model_admin.admin_site.each_context(request),
        "title": "Search",
        "opts": Fact._meta,
        "form": form,
        "found": found,
        "problem": problem,
    }
    request.current_app = model_admin.admin_site.name
    return TemplateResponse(request, "knowledge/search.html", context)


def look(form: SearchForm) -> tuple[Found | None, KnowledgeError | None]:
    asked = form.cleaned_data
    options = {name: asked[name] or None for name in ("entity_type", "as_of")}
    try:
        return search(asked["q"], SHOWN_HITS, mode=asked["mode"] or "hybrid", **options), None
    except KnowledgeError as error:
        return None, error
