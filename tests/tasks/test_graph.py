"""The picture of a task among those around it: what is in it, where it goes, what the page shows."""

import re
from uuid import UUID

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from tasks import graph
from tasks.claim import claim, finish
from tasks.enqueue import After, NewTask, enqueue, enqueue_many
from tasks.graph import Edge, read_graph, spread
from tasks.graph_layout import HEIGHT, WIDTH, lay_out
from tasks.models import Task, TaskIdentity

pytestmark = pytest.mark.django_db


def layers(found):
    return {node.name: node.layer for node in found.nodes.values()}


@pytest.fixture
def diamond():
    """first, then left and right, then last; last waits for first too. Each by its kind."""
    first = enqueue("a", name="first")
    left = enqueue("a", name="left", depends_on=[After(first, "data")])
    right = enqueue("b", name="right", depends_on=[After(first, "start")])
    last = enqueue("b", name="last", depends_on=[left, After(right, "resource"), first])
    return first, left, right, last


def test_each_edge_leads_to_the_right_whichever_task_is_in_the_middle(diamond):
    names = ("first", "left", "right", "last")
    for middle, name in zip(diamond, names, strict=True):
        found = read_graph(middle)
        shown = layers(found)
        assert shown[name] == 0
        assert all(found.nodes[edge.source].layer < found.nodes[edge.target].layer for edge in found.edges)
    assert shown == {"first": -2, "left": -1, "right": -1, "last": 0}
    kinds = {
        (found.nodes[edge.source].name, found.nodes[edge.target].name): edge.kind for edge in found.edges
    }
    assert kinds == {
        ("first", "left"): "data",
        ("first", "right"): "start",
        ("left", "last"): "completion",
        ("right", "last"): "resource",
        ("first", "last"): "completion",
    }


def test_what_is_beside_it_is_shown_where_it_shares_a_step(diamond):
    """From `left` the way to `right` leads through `first` and back: it is no step before nor after."""
    assert layers(read_graph(diamond[1])) == {"first": -1, "left": 0, "last": 1}


def test_states_and_what_still_blocks(diamond, agent_id):
    finish(claim("a", agent_id)[0], {"found": 1})
    found = read_graph(diamond[3])
    states = {node.name: node.status for node in found.nodes.values()}
    assert states == {"first": "completed", "left": "queued", "right": "queued", "last": "pending"}
    still = {found.nodes[edge.source].name for edge in found.edges if edge.is_open}
    assert still == {"left", "right"}


def test_parents_and_children_have_edges_of_their_own():
    parent = enqueue("a", name="parent")
    child = enqueue("a", name="child", parent=parent)
    grandchild = enqueue("a", name="grandchild", parent=child)
    found = read_graph(child)
    assert layers(found) == {"parent": -1, "child": 0, "grandchild": 1}
    assert set(found.edges) == {
        Edge(parent, child, "parent", False),
        Edge(child, grandchild, "parent", False),
    }


def test_it_goes_so_many_steps_and_no_further():
    ids = [enqueue("a", name="0")]
    for number in range(1, 9):
        ids.append(enqueue("a", name=str(number), depends_on=[ids[-1]]))
    assert sorted(layers(read_graph(ids[4])).items()) == [(str(4 + step), step) for step in range(-3, 4)]


@pytest.mark.parametrize(("number", "more"), [(8, {}), (9, {-1: 1})])
def test_a_step_has_room_for_so_many_and_says_how_many_more(number, more):
    inputs = enqueue_many(NewTask(task_type="a") for _ in range(number))
    found = read_graph(enqueue("b", depends_on=inputs))
    assert len(found.nodes) == 1 + 8
    assert found.more == more


def test_more_than_it_counts_is_said_so(monkeypatch):
    monkeypatch.setattr(graph, "COUNT_LIMIT", 12)
    first = enqueue("a")
    enqueue_many(NewTask(task_type="b", depends_on=[first]) for _ in range(20))
    assert read_graph(first).more == {1: 12}


def test_what_blocks_is_shown_before_what_is_done(agent_id):
    inputs = enqueue_many(NewTask(task_type="a") for _ in range(10))
    task = enqueue("b", depends_on=inputs)
    for item in claim("a", agent_id, limit=9):
        finish(item, None)
    (blocking,) = Task.objects.filter(task_type="a", status="queued").values_list("pk", flat=True)
    assert blocking in read_graph(task).nodes


def test_a_task_that_retention_removed_is_shown_as_removed(diamond):
    task_id = UUID(int=7)
    TaskIdentity.objects.create(task_id=task_id, task_type="old")  # all that is left of it
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE tasks.dependencies DISABLE TRIGGER USER")
        cursor.execute(
            "INSERT INTO tasks.dependencies (task_id, depends_on_task_id, released_at) VALUES (%s, %s, now())",
            [diamond[0], task_id],
        )
        cursor.execute("ALTER TABLE tasks.dependencies ENABLE TRIGGER USER")
    assert read_graph(diamond[0]).nodes[task_id].status == "removed"


def test_edges_that_go_round_end_the_spreading():
    one, two = UUID(int=1), UUID(int=2)
    places = {one: 0, two: 1}
    spread(places, [Edge(one, two, "parent", False), Edge(two, one, "completion", True)], one)
    assert places[one] == 0


def test_it_asks_once_for_each_step_and_twice_more(diamond):
    with CaptureQueriesContext(
        connection,
    ) as asked:
        read_graph(diamond[1])
    assert len(asked) <= 2 * graph.STEPS + 2


# -- where it goes --------------------------------------------------------------------------------------------------
def test_no_two_boxes_overlap_and_all_are_inside(diamond):
    picture = lay_out(read_graph(diamond[3]))
    places = [box.place for box in picture.boxes]
    for number, one in enumerate(places):
        assert 0 < one.x <= picture.width - WIDTH
        assert 0 < one.y <= picture.height - HEIGHT
        for other in places[:number]:
            assert abs(one.x - other.x) > WIDTH or abs(one.y - other.y) > HEIGHT


def test_a_long_name_is_shortened_in_the_box_alone():
    picture = lay_out(read_graph(enqueue("a", name="x" * 200)))
    assert len(picture.boxes[0].text) == 22
    assert picture.boxes[0].node.name == "x" * 200


# -- the page -------------------------------------------------------------------------------------------------------
def test_the_page_shows_tasks_kinds_and_states_and_names_are_escaped(admin_client):
    first = enqueue("a", name="<script>alert(1)</script>")
    last = enqueue("a", name="last", depends_on=[After(first, "data")])
    page = admin_client.get(reverse("admin:tasks_task_graph", args=[last])).content.decode()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert reverse("admin:tasks_task_graph", args=[first]) in page
    assert re.search(r'<path class="edge data is-open"', page)
    assert re.search(r'class="task queued"', page)
    assert re.search(r'class="task pending is-center"', page)
    assert " style=" not in page[page.index("<svg class") : page.index("</table>")]


def test_the_page_of_a_task_leads_to_it_and_one_alone_says_so(admin_client):
    task_id = enqueue("a")
    address = reverse("admin:tasks_task_graph", args=[task_id])
    assert address in admin_client.get(reverse("admin:tasks_task_change", args=[task_id])).content.decode()
    assert b"It waits for nothing" in admin_client.get(address).content
    assert admin_client.get(reverse("admin:tasks_task_graph", args=[UUID(int=1)])).status_code == 404


def test_what_has_no_room_leads_to_the_lists(admin_client):
    inputs = enqueue_many(NewTask(task_type="a") for _ in range(11))
    task = enqueue("b", depends_on=inputs)
    page = admin_client.get(reverse("admin:tasks_task_graph", args=[task])).content.decode()
    assert ">3 more</text>" in page
    listed = admin_client.get(re.search(r'href="([^"]*dependency/\?task__exact=[^"]*)"', page)[1])
    assert len(listed.context["cl"].result_list) == 11
    for lookup in ("depends_on__exact", "parent__exact"):
        assert admin_client.get(re.search(rf'href="([^"]*\?{lookup}=[^"]*)"', page)[1]).status_code == 200


def test_who_may_not_view_tasks_sees_no_picture(client):
    client.force_login(User.objects.create_user("bob", is_staff=True))
    assert client.get(reverse("admin:tasks_task_graph", args=[enqueue("a")])).status_code == 403
