"""A task among those that it waits for and those that wait for it, as far as a picture has room."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from pg.queries import Queries

QUERIES = Queries("tasks")
STEPS, MOST_PER_STEP, COUNT_LIMIT = 3, 8, 10_000
PARENT = "parent"  # the kind of an edge that is no dependency: the source has enqueued the target
GONE = "removed"  # retention has taken the task


@dataclass(frozen=True)
class Node:
    task_id: UUID
    task_type: str
    name: str
    status: str
    layer: int  # 0: the task itself; below: before it; above: after it


@dataclass(frozen=True)
class Edge:
    """`target` waits for `source`, as `kind` says (Dependency.Kind, or PARENT). `is_open`: it still does."""

    source: UUID
    target: UUID
    kind: str
    is_open: bool


@dataclass
class Graph:
    """`more`: how many tasks were found and left out beside each layer; COUNT_LIMIT or above: that many or more."""

    center: UUID
    nodes: dict[UUID, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    more: dict[int, int] = field(default_factory=dict)


def read_graph(task_id: UUID, steps: int = STEPS, most: int = MOST_PER_STEP) -> Graph:
    """Return what is up to `steps` away in either direction, at most `most` tasks of each step, what blocks first.

    Two queries, and one for each step. A task that has no row any more leads on by its dependencies alone.
    """
    graph = Graph(task_id)
    layers = {task_id: 0}
    for query, sign in (("tasks_before", -1), ("tasks_after", 1)):
        step_on(graph, layers, query, sign, steps, most)
    ids = {"task_ids": list(layers)}
    rows = QUERIES.run("tasks_of_graph", ids)
    known = {row["task_id"] for row in rows}
    graph.edges = [Edge(**row) for row in QUERIES.run("edges_among", ids)]
    graph.edges += [
        Edge(row["parent_id"], row["task_id"], PARENT, False) for row in rows if row["parent_id"] in known
    ]
    spread(layers, graph.edges, task_id)
    graph.nodes = {row["task_id"]: node_of(row, layers[row["task_id"]]) for row in rows}
    return graph


def step_on(graph: Graph, layers: dict[UUID, int], query: str, sign: int, steps: int, most: int) -> None:
    ids: list[UUID] = [graph.center]
    for step in range(1, steps + 1):
        values = {"task_ids": ids, "known": list(layers)}
        rows = QUERIES.run(query, values, most=int(most), limit=COUNT_LIMIT)
        if not rows:
            return
        ids = [row["task_id"] for row in rows]
        layers.update(dict.fromkeys(ids, sign * step))
        found = rows[0]["number"]
        if found > len(rows):
            is_all = found + len(layers) < COUNT_LIMIT
            graph.more[sign * step] = found - len(rows) if is_all else COUNT_LIMIT


def spread(layers: dict[UUID, int], edges: Iterable[Edge], center: UUID) -> None:
    """Move tasks outwards until each edge leads to the right: a task that is one step away may be two as well.

    Where edges go round (a parent that waits for its child), it stops.
    """
    edges = list(edges)
    for _ in layers:
        wrong = [edge for edge in edges if layers[edge.source] >= layers[edge.target]]
        for edge in wrong:
            if layers[edge.source] >= 0 and edge.target != center:
                layers[edge.target] = layers[edge.source] + 1
            elif layers[edge.target] <= 0 and edge.source != center:
                layers[edge.source] = layers[edge.target] - 1
        if not wrong:
            return


def node_of(row: dict[str, Any], layer: int) -> Node:
    name = row["task_name"] or row["task_type"]
    return Node(row["task_id"], row["task_type"], name, row["status"] or GONE, layer)
