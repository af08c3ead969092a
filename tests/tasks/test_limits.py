import threading
import time
from collections import Counter
from datetime import timedelta

import pytest
from celery import Celery
from django.db import connection, transaction
from django.utils import timezone
from kombu import Queue

from operators.audit import Actor
from operators.models import AuditEntry
from pg.errors import Refused
from tasks import jobs, known, queues, registry, tickets
from tasks.claim import claim, finish, finish_and_claim_next
from tasks.enqueue import NewTask, enqueue, enqueue_many
from tasks.leaves import register_types
from tasks.limits import Bounds, remove_limit, set_limit
from tasks.models import Limit, Pause, QueuePause, Task, TaskType
from tasks.pauses import end_pauses, pause, pause_queue, resume_queue
from tasks.sweep import QUERIES, send_tickets
from tests.tasks.conftest import eventually, somebody_waits

pytestmark = pytest.mark.django_db
ME = Actor("ann", "command")


def limit(scope, name="", **bounds):
    return set_limit(scope, name, Bounds(**bounds), ME, "for a test")


def fill(task_type, number, **options):
    return enqueue_many(NewTask(task_type=task_type, payload=n, **options) for n in range(number))


@pytest.fixture
def two_types(handles):
    """Registered: `a` and `b` of the queue `shared`, `c` of another."""
    for task_type, queue in (("a", "shared"), ("b", "shared"), ("c", "other")):
        handles(task_type, lambda context: None, queue=queue)
    register_types()
    for task_type in "abc":
        fill(task_type, 5)


def claimed(task_types, agent_id, limit=5):
    return "".join(
        item.task_type for task_type in task_types for item in claim(task_type, agent_id, limit=limit)
    )


@pytest.mark.parametrize(
    ("scope", "name", "got"),
    [
        ("type", "a", "aabbbbbccccc"),
        ("queue", "shared", "aaccccc"),
        ("all", "", "aa"),
        ("queue", "none", "aaaaabbbbbccccc"),
    ],
)
def test_no_more_run_at_once_than_the_limit_says(two_types, agent_id, scope, name, got):
    limit(scope, name, max_running=2)
    assert claimed("abc", agent_id) == got
    assert claimed("abc", agent_id, limit=1) == ""


def test_each_end_frees_one_slot(two_types, agent_id):
    limit("type", "a", max_running=1)
    (first,) = claim("a", agent_id, limit=5)
    assert claim("a", agent_id) == []
    is_stored, following = finish_and_claim_next(first, None)
    assert (is_stored, len(following)) == (True, 1)


def test_a_limit_on_a_type_in_default_holds_too(agent_id):
    fill("nobody", 3)
    limit("type", "nobody", max_running=2)
    assert len(claim("nobody", agent_id, limit=3)) == 2


def test_a_rate_counts_starts_in_its_window_whatever_became_of_them(two_types, agent_id):
    rule = limit("type", "a", rate_limit=3, rate_seconds=60)
    for item in claim("a", agent_id, limit=2):
        finish(item, None)
    assert len(claim("a", agent_id, limit=5)) == 1
    assert claim("a", agent_id) == []
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE tasks.starts SET started_at = started_at - interval '1 hour' WHERE limit_id = %s",
            [rule.pk],
        )
        QUERIES.run("forget_starts")
        cursor.execute("SELECT count(*) FROM tasks.starts")
        assert cursor.fetchone()[0] == 0
    assert len(claim("a", agent_id, limit=5)) == 2, "all that is left"


def test_no_key_has_more_than_its_slots_and_none_waits_behind_another(agent_id):
    limit("type", "echo", max_running_per_key=2)
    fill("echo", 10, concurrency_key="big")
    fill("echo", 1, concurrency_key="small")
    fill("echo", 1)
    items = claim("echo", agent_id, limit=20)
    keys = Counter(
        Task.objects.filter(pk__in=[item.task_id for item in items]).values_list("concurrency_key", flat=True)
    )
    assert keys == {"big": 2, "small": 1, None: 1}
    assert claim("echo", agent_id, limit=20) == []


def test_keys_take_turns_by_their_weight(agent_id):
    limit("type", "echo", fair_keys=True)
    limit("key", "gold", weight=3)
    fill("echo", 20, concurrency_key="big")
    fill("echo", 20, concurrency_key="gold")
    items = claim("echo", agent_id, limit=8)
    keys = Counter(
        Task.objects.filter(pk__in=[item.task_id for item in items]).values_list("concurrency_key", flat=True)
    )
    assert keys == {"gold": 6, "big": 2}
    more = claim("echo", agent_id, limit=4)
    keys += Counter(
        Task.objects.filter(pk__in=[item.task_id for item in more]).values_list("concurrency_key", flat=True)
    )
    assert keys == {"gold": 9, "big": 3}, "what runs already counts"


def test_a_key_may_have_a_limit_of_its_own(agent_id):
    limit("type", "echo", max_running_per_key=1)
    limit("key", "vip", max_running=3)
    fill("echo", 5, concurrency_key="vip")
    assert len(claim("echo", agent_id, limit=5)) == 3


def test_priority_goes_before_turns(agent_id):
    limit("type", "echo", fair_keys=True)
    fill("echo", 2, concurrency_key="a")
    enqueue("echo", "late", concurrency_key="a", priority="high")
    enqueue("echo", "other", concurrency_key="b")
    assert claim("echo", agent_id)[0].payload == "late"


def test_expired_and_assigned_tasks_are_left_out_of_turns_too(agent_id, other_id):
    limit("type", "echo", fair_keys=True)
    enqueue("echo", concurrency_key="a", assigned_agent=other_id)
    old = enqueue("echo", concurrency_key="a", expires_at=timezone.now() + timedelta(hours=1))
    past = timezone.now() - timedelta(days=1)
    Task.objects.filter(pk=old).update(created_at=past, expires_at=past + timedelta(seconds=1))
    assert claim("echo", agent_id, limit=5) == []
    assert len(claim("echo", other_id, limit=5)) == 1


@pytest.mark.django_db(transaction=True)
def test_two_claims_at_once_do_not_share_the_last_slot(agent_id):
    """The collision is certain: the second is seen waiting for the first one's transaction."""
    limit("type", "echo", max_running=1)
    fill("echo", 2)
    got = []

    def second():
        got.extend(claim("echo", agent_id))
        connection.close()

    with transaction.atomic():
        assert len(claim("echo", agent_id)) == 1
        thread = threading.Thread(target=second)
        thread.start()
        eventually(somebody_waits)
    thread.join(60)
    assert got == []


@pytest.mark.django_db(transaction=True)
def test_types_without_limits_do_not_wait_for_those_with(agent_id):
    limit("type", "slow", max_running=1)
    fill("slow", 1)
    fill("echo", 1)
    got = []

    def second():
        got.extend(claim("echo", agent_id))
        connection.close()

    with transaction.atomic():
        claim("slow", agent_id)
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(60)
        assert len(got) == 1


def test_a_type_that_no_limit_names_is_claimed_without_a_look_at_one(two_types, agent_id):
    """Whoever counts under a limit holds its lock until the transaction ends."""
    limit("type", "b", max_running=1)
    for task_type, locks in (("a", 0), ("b", 1)):
        assert claim(task_type, agent_id)
        assert locks_of_limits() == locks


def locks_of_limits():
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
            " AND classid::bigint = hashtext('tasks.limits')::bigint & 4294967295"
        )
        return cursor.fetchone()[0]


def test_of_a_limited_type_a_claim_may_ask_for_fewer(two_types, agent_id):
    limit("type", "b", max_running=10)
    assert len(claim("a", agent_id, limit=3, limit_if_limited=1)) == 3
    assert len(claim("b", agent_id, limit=3, limit_if_limited=1)) == 1


# -- who sets them ------------------------------------------------------------------------------------------
def test_a_handler_s_limit_is_renewed_and_an_operator_s_stays(handles):
    handles("mine", len, max_running=3)
    register_types()
    assert Limit.objects.get().max_running == 3
    registry.forget_handler("mine")
    handles("mine", len, max_running=4, rate_limit=10, rate_seconds=1)
    register_types()
    assert (Limit.objects.get().max_running, Limit.objects.get().rate_limit) == (4, 10)
    limit("type", "mine", max_running=1)
    registry.forget_handler("mine")
    handles("mine", len, max_running=5)
    register_types()
    assert Limit.objects.get().max_running == 1
    assert remove_limit("type", "mine", ME)
    assert (Limit.objects.get().max_running, Limit.objects.get().declared_by) == (5, "handler")
    registry.forget_handler("mine")
    handles("mine", len)
    register_types()
    assert not Limit.objects.exists()
    assert set(AuditEntry.objects.values_list("action", flat=True)) == {
        "tasks.set_limit",
        "tasks.remove_limit",
    }


@pytest.mark.parametrize(
    ("scope", "name", "bounds", "words"),
    [
        ("world", "", {}, "scope='world'"),
        ("type", "", {}, "has a name"),
        ("all", "x", {}, "has a name"),
        ("type", "x", {"max_running": 0}, "max_running=0"),
        ("type", "x", {"rate_limit": 1}, "a rate needs"),
        ("type", "x", {"weight": 0}, "weight=0"),
        ("queue", "x", {"fair_keys": True}, "per type"),
        ("key", "x", {"rate_limit": 1, "rate_seconds": 1}, "no rate"),
    ],
)
def test_a_limit_that_breaks_a_rule_is_refused(scope, name, bounds, words):
    with pytest.raises(Refused, match=words):
        limit(scope, name, **bounds)


# -- pauses -------------------------------------------------------------------------------------------------
def test_a_paused_queue_pauses_its_types(two_types, agent_id):
    assert pause_queue("shared", "too hot", ME)
    assert not pause_queue("shared", "again", ME)
    assert claimed("abc", agent_id) == "ccccc"
    assert send_tickets() == 0
    assert resume_queue("shared", "", ME)
    assert not resume_queue("shared", "", ME)
    assert claimed("ab", agent_id) == "aaaaabbbbb"
    assert [entry.reason for entry in AuditEntry.objects.order_by("pk")] == ["too hot", ""]


def test_a_pause_ends_by_itself(two_types, agent_id):
    until = timezone.now() + timedelta(hours=1)
    pause("a", "an hour", ME, until)
    pause_queue("other", "an hour", ME, until)
    assert end_pauses() == 0
    assert claimed("ac", agent_id) == ""
    past = timezone.now() - timedelta(hours=2)
    for model in (Pause, QueuePause):
        model.objects.update(paused_at=past, paused_until=past + timedelta(hours=1))
    assert claimed("a", agent_id, limit=1) == "a", "claims do not wait for the sweep"
    assert end_pauses() == 2
    assert not Pause.objects.exists()


@pytest.mark.parametrize(
    "until", [timezone.now() - timedelta(seconds=1), timezone.now().replace(tzinfo=None)]
)
def test_a_pause_ends_in_the_future(until):
    with pytest.raises(Refused, match="until="):
        pause("a", until=until)


# -- whose turn it is -----------------------------------------------------------------------------------------
def test_a_ticket_that_waited_is_spent_by_weight(two_types, handles, agent_id, monkeypatch):
    monkeypatch.setattr(tickets, "send", lambda *ticket: None)
    limit("type", "b", weight=4)
    drawn = Counter(jobs.next_type("shared") for _ in range(400))
    assert set(drawn) == {"a", "b"}
    assert 250 < drawn["b"] < 380, "b has four of five parts"
    pause("b")
    assert jobs.next_type("shared") == "a"
    pause("a")
    assert jobs.next_type("shared") is None


def test_the_queue_of_a_type_without_handler_here_is_looked_up(two_types):
    TaskType.objects.create(task_type="far", partition_name="tasks.queue_default", options={"queue": "gpu"})
    known._learned.clear()
    assert queues.queue_of("far") == "default"
    known.learn(["far", "unknown", "a"])
    assert [queues.queue_of(name) for name in ("far", "unknown", "a")] == ["gpu", "default", "shared"]


def test_no_ticket_is_sent_while_too_many_wait(monkeypatch):
    sent, waiting = [], [tickets.MAX_WAITING]
    monkeypatch.setattr(tickets, "send", lambda *ticket: sent.append(ticket))
    monkeypatch.setattr(tickets, "count_waiting", lambda queue: waiting[0])
    sender = tickets.Sender()
    assert sender.send_all({("a", True)}) == set()
    assert sender.send_all({("a", True)}) == set()
    assert sent == [("a", True)], "the first look came after the first ticket"
    waiting[0], sender.next_look = tickets.MAX_WAITING - 1, time.monotonic()
    sender.send_all({("a", True)})
    sender.send_all({("a", True)})
    assert len(sent) == 2


@pytest.mark.parametrize(
    ("named", "taken"), [([], {"tasks", "tasks.shared", "tasks.other"}), (["shared"], {"tasks.shared"})]
)
def test_a_worker_takes_tickets_of_its_handlers_queues_or_of_those_named(two_types, settings, named, taken):
    settings.TASKS_QUEUES = named
    app = Celery(set_as_current=False)
    app.conf.task_queues = [Queue("mistersmith"), Queue("tasks")]
    app.amqp.queues.select(["tasks"])
    queues.consume(app)
    assert set(app.amqp.queues.consume_from) == taken


def test_a_worker_without_tickets_stays_as_it_is(two_types):
    app = Celery(set_as_current=False)
    app.conf.task_queues = [Queue("mistersmith"), Queue("tasks")]
    app.amqp.queues.select(["mistersmith"])
    queues.consume(app)
    assert set(app.amqp.queues.consume_from) == {"mistersmith"}
