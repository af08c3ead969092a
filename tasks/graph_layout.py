"""Where each box and each line of the picture goes. Pure: numbers in, numbers out, in the units of the SVG."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from tasks.graph import COUNT_LIMIT, Edge, Graph, Node

WIDTH, HEIGHT, BETWEEN_COLUMNS, BETWEEN_ROWS, MARGIN = 182, 46, 64, 16, 12
SHOWN_CHARACTERS = 22


@dataclass(frozen=True)
class Place:
    """Of a box: its corner above on the left, and the middles of its two lines of text."""

    x: int
    y: int
    width: int = WIDTH
    height: int = HEIGHT

    @property
    def middle(self) -> int:
        return self.x + self.width // 2

    @property
    def first_line(self) -> int:
        return self.y + 20

    @property
    def second_line(self) -> int:
        return self.y + 36


@dataclass(frozen=True)
class Box:
    node: Node
    place: Place
    text: str


@dataclass(frozen=True)
class Line:
    edge: Edge
    path: str  # the `d` of an SVG path
    words: str


@dataclass(frozen=True)
class Left:
    """How many tasks of a column have no box."""

    place: Place
    words: str


@dataclass(frozen=True)
class Picture:
    width: int
    height: int
    boxes: list[Box]
    lines: list[Line]
    left_out: list[Left]


def lay_out(graph: Graph) -> Picture:
    """Put what comes before on the left and what comes after on the right, column by column from the middle."""
    columns = columns_of(graph)
    rows = {layer: len(nodes) + (layer in graph.more) for layer, nodes in columns.items()}
    tallest = max(rows.values())
    first = min(columns)
    places: dict[UUID, Place] = {}
    left_out = []
    for layer, nodes in columns.items():
        x = MARGIN + (layer - first) * (WIDTH + BETWEEN_COLUMNS)
        top = MARGIN + (tallest - rows[layer]) * (HEIGHT + BETWEEN_ROWS) // 2
        for number, node in enumerate(nodes):
            places[node.task_id] = Place(x, top + number * (HEIGHT + BETWEEN_ROWS))
        if layer in graph.more:
            place = Place(x, top + len(nodes) * (HEIGHT + BETWEEN_ROWS))
            left_out.append(Left(place, words_of(graph.more[layer])))
    return Picture(
        width=2 * MARGIN + len(columns) * WIDTH + (len(columns) - 1) * BETWEEN_COLUMNS,
        height=2 * MARGIN + tallest * HEIGHT + (tallest - 1) * BETWEEN_ROWS,
        boxes=[
            Box(graph.nodes[task_id], place, shortened(graph.nodes[task_id].name))
            for task_id, place in places.items()
        ],
        lines=[
            Line(edge, path_of(places[edge.source], places[edge.target]), say(edge, graph))
            for edge in graph.edges
        ],
        left_out=left_out,
    )


def columns_of(graph: Graph) -> dict[int, list[Node]]:
    """Return the tasks of each layer, from left to right; in a column each is about as high as its neighbours nearer to
    the middle, so that fewer lines cross."""
    columns: dict[int, list[Node]] = defaultdict(list)
    for node in graph.nodes.values():
        columns[node.layer].append(node)
    near = defaultdict(set)
    for edge in graph.edges:
        near[edge.source].add(edge.target)
        near[edge.target].add(edge.source)
    heights: dict[UUID, float] = {}
    for layer in sorted(columns, key=abs):
        columns[layer].sort(key=lambda node: (mean_of(near[node.task_id], heights), node.task_id))
        size = len(columns[layer])
        heights.update((node.task_id, (number + 0.5) / size) for number, node in enumerate(columns[layer]))
    return {layer: columns[layer] for layer in range(min(columns), max(columns) + 1)}


def mean_of(tasks: Iterable[UUID], heights: dict[UUID, float]) -> float:
    known = [heights[task_id] for task_id in tasks if task_id in heights]
    return sum(known) / len(known) if known else 0.0


def path_of(source: Place, target: Place) -> str:
    """A curve from the right side of one box to the left side of another."""
    x1, x2 = source.x + source.width, target.x
    y1, y2 = source.y + source.height // 2, target.y + target.height // 2
    bend = max(BETWEEN_COLUMNS // 2, abs(x2 - x1) // 2)
    return f"M{x1} {y1}C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"


def say(edge: Edge, graph: Graph) -> str:
    source, target = graph.nodes[edge.source].name, graph.nodes[edge.target].name
    return f"{edge.kind}: {source}, then {target}"


def words_of(number: int) -> str:
    return f"{COUNT_LIMIT:,} or more" if number >= COUNT_LIMIT else f"{number:,} more"


def shortened(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}\N{HORIZONTAL ELLIPSIS}"
