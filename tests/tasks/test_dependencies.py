"""What tasks wait for: other tasks, by each kind of dependency, and named resources."""

import threading
from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from pg.uuid7 import uuid7
from tasks import jobs, tickets, worker
from tasks.claim import Ended, Failure, cancel, claim, fail, finish, finish_and_claim
from tasks.control import retry
from tasks.dependencies import read_inputs
from tasks.enqueue import After, NewTask, TaskRefused, enqueue, enqueue_many
from tasks.leaves import leaf_of, register_types
from tasks.models import Dependency, Execution, ResourceHolder, ResourceWaiter, Task
from tasks.sweep import QUERIES
from tasks.task_pauses import pause_tasks
from tests.tasks.conftest import eventually, somebody_waits, status_of

pytestmark = pytest.mark.django_db
NEVER = Failure("no luck", is_permanent=True)


def statuses(*task_ids):
    return [status_of(task_id) for task_id in task_ids]


def take(task_type, agent_id):
    return claim(task_type, agent_id)[0]


@pytest.mark.parametrize(
    ("kind", "after_start", "after_success", "after_failure"),
    [
        ("completion", "pending", "queued", "cancelled"),
        ("data", "pending", "queued", "cancelled"),
        ("start", "queued", "queued", "queued"),
        ("resource", "pending", "queued", "queued"),
    ],
)
def test_each_kind_waits_for_what_it_says(agent_id, kind, after_start, after_success, after_failure):
    good, bad = enqueue("good"), enqueue("bad")
    on_good, on_bad = (enqueue("echo", depends_on=[After(other, kind)]) for other in (good, bad))
    assert statuses(on_good, on_bad) == ["pending", "pending"]
    running = [take("good", agent_id), take("bad", agent_id)]
    assert statuses(on_good, on_bad) == [after_start, after_start]
    finish(running[0], {"n": 1})
    fail(running[1], NEVER)
    assert statuses(on_good, on_bad) == [after_success, after_failure]


@pytest.mark.parametrize(
    ("kind", "refused"), [("completion", True), ("data", True), ("start", False), ("resource", False)]
)
def test_what_is_over_already_blocks_nobody(agent_id, kind, refused):
    done, failed, gone = enqueue("a"), enqueue("b"), enqueue("c")
    finish(take("a", agent_id), None)
    fail(take("b", agent_id), NEVER)
    cancel([gone])
    assert status_of(enqueue("echo", depends_on=[After(done, kind)])) == "queued"
    if refused:
        with pytest.raises(TaskRefused, match="failed or was cancelled"):
            enqueue("echo", depends_on=[After(failed, kind)])
    else:
        assert status_of(enqueue("echo", depends_on=[After(failed, kind)])) == "queued"
    if kind == "start":  # it never started
        with pytest.raises(TaskRefused, match="failed or was cancelled"):
            enqueue("echo", depends_on=[After(gone, kind)])


def test_a_task_cancelled_before_it_started_takes_those_with_it_that_wait_for_its_start():
    first = enqueue("a")
    second = enqueue("b", depends_on=[After(first, "start")])
    cancel([first])
    assert status_of(second) == "cancelled"


def test_one_that_is_tried_again_counts_as_started(agent_id, handles):
    handles("a", len, retry_delay_seconds=1000)
    first = enqueue("a")
    fail(take("a", agent_id), Failure("once"))
    assert statuses(first, enqueue("b", depends_on=[After(first, "start")])) == ["pending", "queued"]


def test_results_are_handed_on_by_name(agent_id, handles, monkeypatch):
    monkeypatch.setattr(tickets, "send", lambda *ticket: None)
    handles("join", lambda context: context.inputs())
    left, right, other = (enqueue(name, depends_on=()) for name in ("left", "right", "other"))
    child = enqueue("join", depends_on=[After(left, "data", "left"), After(right, "data"), After(other)])
    for name in ("left", "right", "other"):
        finish(take(name, agent_id), {"from": name})
    assert read_inputs(child) == {"left": {"from": "left"}, str(right): {"from": "right"}}
    worker._worker = me = worker.Worker()
    try:
        assert jobs.run_ticket("join") == 1
    finally:
        worker._worker = None
    assert Execution.objects.get(agent_id=me.agent_id).result == read_inputs(child)


def test_only_data_has_a_name():
    first = enqueue("a")
    with pytest.raises(TaskRefused, match="only data has a name"):
        enqueue("b", depends_on=[After(first, "completion", "x")])
    with pytest.raises(TaskRefused, match="kind='wish'"):
        enqueue("b", depends_on=[After(first, "wish")])


def test_a_whole_workflow_is_enqueued_at_once_in_any_order():
    ids = sorted(uuid7() for _ in range(4))
    edges = {0: [], 1: [0], 2: [0], 3: [1, 2]}
    order = [3, 1, 0, 2]
    enqueue_many(
        NewTask(task_type="echo", task_id=ids[n], depends_on=[ids[m] for m in edges[n]]) for n in order
    )
    assert statuses(*ids) == ["queued", "pending", "pending", "pending"]
    blocked = Task.objects.order_by("pk").values_list("blocked_by", flat=True)
    assert list(blocked) == [0, 1, 1, 2]


def test_a_task_that_waits_is_written_once(agent_id):
    """It is pending from the start: no second version of its row, and no second value for JetStream."""
    parents = [enqueue("a"), enqueue("a")]
    task_id = enqueue("echo", depends_on=parents)
    with connection.cursor() as cursor:
        cursor.execute("SELECT payload ->> 'status', event FROM bridge.outbox WHERE key = %s", [str(task_id)])
        assert cursor.fetchall() == [("pending", f"tasks.created.{task_id}")]
    finish(take("a", agent_id), None)
    assert Task.objects.get(pk=task_id).blocked_by == 1
    finish(take("a", agent_id), None)
    assert (Task.objects.get(pk=task_id).blocked_by, status_of(task_id)) == (0, "queued")


@pytest.mark.parametrize("number", [12, 120])  # edges of all in one statement, or apart by how many of a task
def test_tasks_that_waited_for_one_two_or_three_are_released_by_one_turn(agent_id, number):
    parents, last = enqueue_many(NewTask(task_type="a") for _ in range(3)), enqueue("b")
    children = enqueue_many(
        NewTask(task_type="echo", depends_on=parents[: n % 3 + 1] + [last] * (n % 2)) for n in range(number)
    )
    items = claim("a", agent_id, limit=3)
    finish_and_claim("a", agent_id, [Ended(item) for item in items], 1)
    found = Task.objects.filter(pk__in=children).order_by("pk").values_list("pk", "blocked_by", "status")
    expected = {0: (0, "queued"), 1: (1, "pending")}
    assert {pk: rest for pk, *rest in found} == {
        child: list(expected[n % 2]) for n, child in enumerate(children)
    }


def test_a_workflow_that_is_enqueued_as_one_locks_none_of_its_tasks():
    """Nobody else can see them; what others can see is locked, and so is what was enqueued before."""
    ids = sorted(uuid7() for _ in range(4))
    enqueue_many(
        NewTask(task_type="echo", task_id=task_id, depends_on=ids[max(0, n - 2) : n])
        for n, task_id in enumerate(ids)
    )
    assert locked_tasks() == set()
    enqueue("echo", depends_on=ids[:1])
    assert locked_tasks() == set(ids[:1])


def locked_tasks():
    """Those whose row somebody has locked."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT task_id::uuid FROM tasks.queue WHERE xmax <> '0'")
        return {task_id for (task_id,) in cursor.fetchall()}


@pytest.mark.parametrize("has_functions", [True, False])
def test_one_end_releases_tasks_of_every_leaf(agent_id, has_functions):
    """A leaf without a function of its own, as one made by hand, has that of all leaves."""
    register_types()
    first = enqueue("echo")
    types = ["echo", "demo.plan", "nobody's"]
    children = [enqueue(types[n % 3], depends_on=[first]) for n in range(6)]
    if not has_functions:
        with connection.cursor() as cursor:
            cursor.execute(f"DROP FUNCTION {leaf_of('echo').replace('tasks.', 'tasks.ready_')}")
    finish(take("echo", agent_id), None)
    assert statuses(*children) == ["queued"] * 6


def test_a_turn_that_ends_tasks_and_claims_others_counts_down_what_waits(agent_id):
    """One statement moves all three kinds; what was claimed is told, what was made ready is not."""
    first, second, third = (enqueue("echo", priority=priority) for priority in ("urgent", "high", "normal"))
    ready, half = enqueue("echo", depends_on=[first]), enqueue("echo", depends_on=[first, third])
    later = enqueue("echo", depends_on=[first], scheduled_at=timezone.now() + timedelta(hours=1))
    aside, gone = enqueue("echo", depends_on=[first]), enqueue("echo", depends_on=[first])
    pause_tasks([aside]), cancel([gone])
    stored, (item,) = finish_and_claim("echo", agent_id, [Ended(take("echo", agent_id))], 1)
    assert (stored, item.task_id, item.attempt) == ({first}, second, 1)
    waited = [ready, half, later, aside, gone]
    found = Task.objects.filter(pk__in=waited).values_list("pk", "status", "blocked_by", "worker")
    assert {pk: rest for pk, *rest in found} == {
        ready: ["queued", 0, None],
        half: ["pending", 1, None],
        later: ["pending", 0, None],
        aside: ["paused", 0, None],
        gone: ["cancelled", 0, None],
    }
    assert not Dependency.objects.filter(depends_on=first, released_at=None).exists()
    with connection.cursor() as cursor:
        cursor.execute("SELECT payload ->> 'status' FROM bridge.outbox WHERE key = %s", [str(ready)])
        assert [status for (status,) in cursor.fetchall()] == ["pending", "queued"]


@pytest.mark.parametrize("number", [200, 201])
def test_of_many_that_wait_the_turn_leaves_all_to_the_trigger(agent_id, number):
    first = enqueue("echo", priority="high")
    children = enqueue_many(NewTask(task_type="echo", depends_on=[first]) for _ in range(number))
    finish(take("echo", agent_id), None)
    assert Task.objects.filter(pk__in=children, status="queued", blocked_by=0).count() == number


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("no_broker")
def test_edges_that_are_added_while_a_turn_ends_their_task_are_counted_once(agent_id):
    """The collision is certain: the end is seen waiting for whoever adds an edge to a task that it releases."""
    first, second, child = enqueue("echo", priority="high"), enqueue("b"), uuid7()
    enqueue("echo", task_id=child, depends_on=[first])
    item = take("echo", agent_id)

    def end():
        finish(item, None)
        connection.close()

    with transaction.atomic():
        depend(child, second)
        thread = threading.Thread(target=end)
        thread.start()
        eventually(somebody_waits)
    thread.join(60)
    assert (Task.objects.get(pk=child).blocked_by, status_of(child)) == (1, "pending")
    finish(take("b", agent_id), None)
    assert (Task.objects.get(pk=child).blocked_by, status_of(child)) == (0, "queued")


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("no_broker")
def test_an_enqueue_that_is_ended_for_a_deadlock_is_done_again():
    """Certain: we hold one of the tasks that it depends on, and ask for the other, which it holds, once it waits."""
    parents, stored = sorted(enqueue_many(NewTask(task_type="a") for _ in range(2))), []

    def add():
        stored.append(enqueue("echo", depends_on=parents))
        connection.close()

    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL deadlock_timeout = '60s'")  # it is not us whom PostgreSQL ends
        Task.objects.filter(pk=parents[1]).update(task_name="held")
        thread = threading.Thread(target=add)
        thread.start()
        eventually(somebody_waits)
        Task.objects.filter(pk=parents[0]).update(task_name="held")
    thread.join(60)
    assert (Task.objects.get(pk=stored[0]).blocked_by, status_of(stored[0])) == (2, "pending")


def test_tasks_of_one_moment_are_claimed_in_the_order_of_their_ids(agent_id):
    ids = sorted(uuid7() for _ in range(5))
    enqueue_many(NewTask(task_type="echo", task_id=ids[n]) for n in (3, 1, 4, 0, 2))
    assert [item.task_id for item in claim("echo", agent_id, limit=3)] == ids[:3]


def test_what_a_client_inserts_ready_is_made_to_wait_by_its_edges(agent_id):
    """As workers of the release before do: the edges come after a task that said nothing of them."""
    first, second = enqueue("a"), enqueue("b")
    depend(second, first)
    assert (Task.objects.get(pk=second).blocked_by, status_of(second)) == (1, "pending")
    finish(take("a", agent_id), None)
    assert (Task.objects.get(pk=second).blocked_by, status_of(second)) == (0, "queued")


def test_a_task_that_waits_for_a_resource_may_wait_for_a_task_besides(agent_id):
    first, parent = enqueue("a", resources=["x"]), enqueue("b")
    held = take("a", agent_id)
    parked = enqueue("a", resources=["x"])
    assert claim("a", agent_id) == []
    depend(parked, parent)
    assert (held.task_id, Task.objects.get(pk=parked).blocked_by) == (first, 2)
    finish(held, None)
    assert (Task.objects.get(pk=parked).blocked_by, status_of(parked)) == (1, "pending")
    finish(take("b", agent_id), None)
    assert status_of(parked) == "queued"


def test_an_id_is_given_once():
    task_id = enqueue("a", task_id=uuid7())
    with pytest.raises(TaskRefused, match="a task with this task_id exists"):
        enqueue("b", task_id=task_id)


@pytest.mark.parametrize("is_backward_last", [True, False])
def test_cycles_are_refused_whichever_edge_comes_last(is_backward_last):
    first, second, third = (enqueue("a", task_id=task_id) for task_id in sorted(uuid7() for _ in range(3)))
    edges = [(second, first), (third, second), (first, third)]
    if not is_backward_last:
        edges.reverse()
    for task, other in edges[:2]:
        depend(task, other)
    with pytest.raises(IntegrityError, match="dependency cycle"), transaction.atomic():
        depend(*edges[2])


def test_a_cycle_in_one_statement_is_refused():
    first, second = enqueue("a"), enqueue("a")
    values = ", ".join(f"('{task}', '{other}')" for task, other in ((first, second), (second, first)))
    with pytest.raises(IntegrityError, match="dependency cycle"), connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO tasks.dependencies (task_id, depends_on_task_id) VALUES {values}")


def depend(task_id, other):
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO tasks.dependencies (task_id, depends_on_task_id) VALUES (%s, %s)", [task_id, other]
        )


@pytest.mark.django_db(transaction=True)
def test_of_two_that_close_a_cycle_together_the_second_is_refused():
    """The collision is certain: the second is seen waiting for the first one's transaction."""
    first, second = (enqueue("a", task_id=task_id) for task_id in sorted(uuid7() for _ in range(2)))
    errors = []

    def close_it():
        try:
            depend(first, second)
        except IntegrityError as error:
            errors.append(str(error))
        connection.close()

    with transaction.atomic():
        depend(second, first)
        thread = threading.Thread(target=close_it)
        thread.start()
        eventually(somebody_waits)
    thread.join(60)
    assert "dependency cycle" in errors[0]
    assert Dependency.objects.count() == 1


def test_a_running_task_cannot_be_made_to_wait(agent_id):
    first, second = enqueue("a"), enqueue("b")
    take("b", agent_id)
    with pytest.raises(IntegrityError, match="not waiting any more"), transaction.atomic():
        depend(second, first)


# -- resources ----------------------------------------------------------------------------------------------
def test_a_resource_has_one_holder_and_the_others_step_aside(agent_id):
    first, second = enqueue("a", resources=["gpu 0"]), enqueue("a", resources=["gpu 0", "disk"])
    other = enqueue("a")
    running = claim("a", agent_id, limit=3)
    assert [item.task_id for item in running] == [first, other]
    parked = Task.objects.get(pk=second)
    assert (parked.status, parked.blocked_by, parked.attempt, parked.worker) == ("pending", 1, 0, None)
    assert parked.status_reason == "waits for the resource gpu 0"
    assert ResourceHolder.objects.get().task_id == first
    assert ResourceWaiter.objects.get().task_id == second
    finish(running[0], None)
    assert status_of(second) == "queued"
    (running,) = claim("a", agent_id, limit=3)
    assert set(ResourceHolder.objects.values_list("resource", flat=True)) == {"gpu 0", "disk"}
    finish(running, None)
    assert not ResourceHolder.objects.exists()
    assert not ResourceWaiter.objects.exists()


def test_a_claim_parks_so_many_and_no_more(agent_id, monkeypatch):
    """It holds locks meanwhile: what is behind them is for the next one."""
    monkeypatch.setattr("tasks.claim.MAX_PARKING", 2)
    enqueue("a", resources=["x"], priority="high")
    take("a", agent_id)
    for _ in range(3):
        enqueue("a", resources=["x"], priority="high")
    other = enqueue("a")
    assert claim("a", agent_id) == []
    assert ResourceWaiter.objects.count() == 2
    assert take("a", agent_id).task_id == other


@pytest.mark.parametrize("ending", ["retry", "failure", "cancel"])
def test_a_resource_is_free_however_its_holder_stops(agent_id, handles, ending):
    handles("a", len, retry_delay_seconds=1000)
    first, second = enqueue("a", resources=["x"]), enqueue("a", resources=["x"], priority="low")
    running = take("a", agent_id)
    assert claim("a", agent_id) == []
    if ending == "cancel":
        cancel([first])
    else:
        fail(running, Failure("no", is_permanent=ending == "failure"))
    assert status_of(second) == "queued"
    assert take("a", agent_id).task_id == second


def test_waiters_are_woken_best_first_and_those_that_ended_are_passed_over(agent_id):
    enqueue("a", resources=["x"], priority="critical")
    running = take("a", agent_id)
    low, gone, high = (
        enqueue("a", resources=["x"], priority=priority) for priority in ("low", "urgent", "high")
    )
    assert claim("a", agent_id, limit=3) == []
    cancel([gone])
    finish(running, None)
    assert statuses(low, gone, high) == ["pending", "cancelled", "queued"]
    retry([gone])
    assert status_of(gone) == "queued"


def test_what_waits_for_a_free_resource_is_woken_by_the_sweep(agent_id):
    _, second, third = (enqueue("a", resources=["x"]) for _ in range(3))
    running = claim("a", agent_id, limit=3)
    assert len(running) == 1
    finish(running[0], None)
    cancel([second])  # it was next, and never came
    assert status_of(third) == "pending"
    assert QUERIES.run("wake_waiters") == [{"task_type": "a"}]
    assert status_of(third) == "queued"
    assert QUERIES.run("wake_waiters") == []


def test_a_parked_task_also_waits_for_its_dependencies(agent_id):
    enqueue("a", resources=["x"], priority="high")
    running = take("a", agent_id)
    parked = enqueue("a", resources=["x"])
    assert claim("a", agent_id) == []
    other = enqueue("b")
    depend(parked, other)
    finish(running, None)
    assert status_of(parked) == "pending"
    finish(take("b", agent_id), None)
    assert status_of(parked) == "queued"


@pytest.mark.django_db(transaction=True)
def test_a_holder_that_ends_while_another_parks_wakes_it(agent_id, other_id):
    """The collision is certain: the end is seen waiting for the claim that parks, and finds the waiter."""
    enqueue("a", resources=["x"])
    running = take("a", agent_id)
    second = enqueue("a", resources=["x"])

    def end():
        finish(running, None)
        connection.close()

    with transaction.atomic():
        assert claim("a", other_id) == []
        thread = threading.Thread(target=end)
        thread.start()
        eventually(somebody_waits)
    thread.join(60)
    assert status_of(second) == "queued"


@pytest.mark.django_db(transaction=True)
def test_two_that_start_at_once_do_not_both_hold_it(agent_id, other_id):
    enqueue("a", resources=["x"])
    enqueue("b", resources=["x"])
    got = []

    def other():
        got.extend(claim("b", other_id))
        connection.close()

    with transaction.atomic():
        assert len(claim("a", agent_id)) == 1
        thread = threading.Thread(target=other)
        thread.start()
        eventually(somebody_waits)
    thread.join(60)
    assert got == []
    assert ResourceWaiter.objects.count() == 1


def test_the_same_holds_through_plain_sql(agent_id):
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO tasks.queue (task_type, resources) VALUES ('a', '{x}'), ('a', '{x}')")
        start = "UPDATE tasks.queue SET status = 'running', started_at = clock_timestamp(), attempt = 1, worker = %s"
        cursor.execute(start, [agent_id])
        cursor.execute("SELECT status::text FROM tasks.queue ORDER BY 1")
        assert cursor.fetchall() == [("pending",), ("running",)]


def test_a_chain_of_a_thousand_tasks_is_cancelled_with_its_first():
    """Each generation was a trigger within a trigger: PostgreSQL's stack ended after some hundred."""
    ids = sorted(uuid7() for _ in range(1_000))
    enqueue_many(
        NewTask(task_type="echo", task_id=task_id, depends_on=ids[max(0, n - 1) : n])
        for n, task_id in enumerate(ids)
    )
    cancel(ids[:1])
    assert Task.objects.filter(status="cancelled").count() == len(ids)
    assert str(ids[-2]) in Task.objects.get(pk=ids[-1]).status_reason


def test_a_client_with_an_empty_search_path_may_write(own_database):
    with own_database.connect() as session:
        session.execute("SET search_path = ''")
        session.execute("INSERT INTO tasks.queue (task_type) VALUES ('echo')")
        changed = session.execute("UPDATE tasks.queue SET status = 'running', started_at = now()").rowcount
        assert changed == 1
        session.execute("UPDATE tasks.queue SET status = 'completed', completed_at = now()")
        session.execute("DELETE FROM tasks.queue")


@pytest.mark.parametrize("through", ["a statement", "a trigger of the client's own"])
def test_no_setting_of_a_client_keeps_dependents_from_being_told(through):
    """An earlier release had a switch for its own use, which any session could set."""
    first = enqueue("echo")
    second = enqueue("echo", depends_on=[first])
    third = enqueue("echo", depends_on=[second])
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('tasks.is_cascading', 'on', true)")
        statement = (
            f"UPDATE tasks.queue SET status = 'cancelled', completed_at = now() WHERE task_id = '{first}'"
        )
        if through != "a statement":
            cursor.execute("CREATE TEMP TABLE mine (n integer)")
            cursor.execute(
                "CREATE FUNCTION pg_temp.mine() RETURNS trigger LANGUAGE plpgsql AS"
                f" $$ BEGIN {statement}; RETURN NULL; END $$"
            )
            cursor.execute(
                "CREATE TRIGGER mine AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION pg_temp.mine()"
            )
            statement = "INSERT INTO mine VALUES (1)"
        cursor.execute(statement)
    assert statuses(first, second, third) == ["cancelled"] * 3


def test_a_task_that_was_set_aside_is_cancelled_too_when_it_waits_in_vain():
    first = enqueue("echo")
    second = enqueue("echo", depends_on=[first])
    third = enqueue("echo", depends_on=[second])
    Task.objects.filter(pk=second).update(status="paused")
    cancel([first])
    assert statuses(second, third) == ["cancelled", "cancelled"]
