"""The admin's picture of a task and what is around it. SVG made here: no script, and no style of its own."""

from typing import Any
from uuid import UUID

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse

from tasks.graph import PARENT, STEPS, read_graph
from tasks.graph_layout import lay_out
from tasks.models import Dependency, Task

KINDS = {
    Dependency.Kind.COMPLETION: "starts when that is completed",
    Dependency.Kind.DATA: "and gets its result",
    Dependency.Kind.START: "starts when that has started",
    Dependency.Kind.RESOURCE: "starts when that has ended in whatever way",
    PARENT: "was enqueued by that",
}


def show_graph(request: HttpRequest, pk: UUID, model_admin: Any) -> HttpResponse:
    """403 for who may not view tasks, 404 for a task that is not there (any more)."""
    if not model_admin.has_view_permission(request):
        raise PermissionDenied
    task = get_object_or_404(Task, pk=pk)
    graph = read_graph(pk)
    context = {
        **model_admin.admin_site.each_context(request),
        "title": f"What {task} waits for, and what waits for it",
        "opts": Task._meta,
        "task": task,
        "graph": graph,
        "picture": lay_out(graph),
        "edges": [(edge, graph.nodes[edge.source], graph.nodes[edge.target]) for edge in graph.edges],
        "kinds": KINDS.items(),
        "steps": STEPS,
    }
    request.current_app = model_admin.admin_site.name
    return TemplateResponse(request, "tasks/graph.html", context)
