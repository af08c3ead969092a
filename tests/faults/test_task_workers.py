"""Workers that die, freeze, wake too late; handlers that do what no handler should."""

import os
import random
import shutil
import signal
import threading
import time
from collections import Counter

import psutil
import pytest
from django.db import OperationalError, connection, transaction

from operators.audit import Actor
from tasks import tickets
from tasks.claim import claim, finish, heartbeat_leases
from tasks.enqueue import NewTask, enqueue, enqueue_many
from tasks.limits import Bounds, set_limit
from tasks.models import Execution, RecurringSlot, Task
from tasks.recurring import set_recurring
from tasks.sweep import sweep, take_back_leases
from tests.faults.installation import BEAT, BRIDGE, PATIENCE_SECONDS, WORKER
from tests.marks import LATER
from tests.tasks.conftest import eventually, status_of
from tests.tasks.fleet.handlers import MISDEEDS  # this process enqueues with these handlers' options

pytestmark = [pytest.mark.servers, pytest.mark.django_db(transaction=True)]
ME = Actor("ann", "command")
# with retries enough for every kill that a task may meet
ENQUEUE_PATIENT = (
    "INSERT INTO tasks.queue (task_type, max_retries) SELECT 'echo', 100 FROM generate_series(1, %s)"
)


def sweep_until(look, timeout_seconds=PATIENCE_SECONDS):
    return eventually(lambda: sweep() and look(), timeout_seconds)


def overlapping_attempts():
    """Return how many attempts began before the one before them of the same task had ended."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM tasks.executions e JOIN tasks.executions l"
            " ON l.task_id = e.task_id AND l.execution_attempt = e.execution_attempt + 1"
            " WHERE e.completed_at IS NULL OR l.started_at < e.completed_at"
        )
        return int(cursor.fetchone()[0])


def count(faults, number):
    """Add what came of `number` tasks: each has one success, its attempts are counted, none ran twice at once."""
    done = Counter(Execution.objects.filter(status="completed").values_list("task_id", flat=True))
    attempts = Counter(Execution.objects.values_list("task_id", flat=True))
    faults.did(tasks=len(done))
    faults.wrong(
        tasks_lost=number - len(done),
        tasks_doubled=sum(done.values()) - len(done),
        tasks_at_once=overlapping_attempts(),
        attempts_miscounted=sum(
            task.attempt != attempts[task.pk] for task in Task.objects.only("pk", "attempt")
        ),
    )


# -- processes ----------------------------------------------------------------------------------------------
def test_a_process_that_wakes_after_its_lease_changes_nothing(worker, tmp_path, faults):
    """SIGSTOP until another process has taken the task over; then it wakes, finishes, and is not heard."""
    task_id = enqueue("fleet.meets", {"dir": str(tmp_path)})
    pid = int(eventually(lambda: (tmp_path / "running.1").exists() and (tmp_path / "running.1").read_text()))
    os.kill(pid, signal.SIGSTOP)
    faults.happened("worker frozen")
    try:
        sweep_until(lambda: (tmp_path / "running.2").exists())
        (tmp_path / "go.1").touch()
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: "finished too late" in worker.log)
    assert status_of(task_id) == "running"
    (tmp_path / "go.2").touch()
    eventually(lambda: status_of(task_id) == "completed")
    assert Execution.objects.get(task_id=task_id, status="completed").result == 2
    count(faults, 1)


@pytest.mark.parametrize("kills", [3, pytest.param(25, id="25-kills", marks=pytest.mark.deep)])
def test_killed_workers_lose_no_task_and_do_none_twice_at_once(worker, faults, kills, tmp_path):
    """Each kill meets a process in mid-task, with others in its hand or without."""
    number = kills * 40
    enqueue_many(NewTask(task_type="fleet.naps", payload={"seconds": 0.02}) for _ in range(number))
    for n in range(kills):
        begun = tmp_path / f"victim.{n}"
        enqueue("fleet.naps", {"seconds": 0.02, "victim": str(begun)}, priority="high")
        faults.kill("worker process", sweep_until(lambda: read_pid(begun)))  # noqa: B023
    number += kills
    sweep_until(
        lambda: Task.objects.filter(status="completed").count() == number, PATIENCE_SECONDS + kills * 5
    )
    count(faults, number)


def read_pid(file):
    """Return the pid that a handler wrote; 0: it has not begun."""
    return int(file.read_text() or 0) if file.exists() else 0


def test_a_poisonous_task_costs_its_attempts_and_nothing_else(worker, faults):
    poison = enqueue("fleet.poison")
    others = enqueue_many(NewTask(task_type="fleet.naps", payload={"seconds": 0.01}) for _ in range(30))
    sweep_until(lambda: status_of(poison) == "failed")
    sweep_until(lambda: Task.objects.filter(pk__in=others, status="completed").count() == len(others))
    attempts = Execution.objects.filter(task_id=poison)
    faults.happened("worker process killed by its own task", attempts.count())
    assert attempts.count() == 2
    assert "lease expired" in Task.objects.get(pk=poison).status_reason
    count(faults, len(others))


def test_short_tasks_in_a_killed_process_s_hand_lose_nothing_by_the_one_that_killed_it(worker, faults):
    """None of them may be tried again: an attempt that never began must not count."""
    enqueue_many(NewTask(task_type="fleet.mixed") for _ in range(60))
    poison = enqueue("fleet.mixed", "poison")
    enqueue_many(NewTask(task_type="fleet.mixed") for _ in range(60))
    sweep_until(lambda: status_of(poison) == "failed")
    sweep_until(lambda: Task.objects.filter(status="completed").count() == 120)
    faults.happened("worker process killed by its own task", Execution.objects.filter(task_id=poison).count())
    count(faults, 120)


@pytest.mark.deep
def test_two_beats_enqueue_each_moment_once(worker, celery, faults):
    from operators.schedules import install_schedules

    install_schedules()
    set_recurring("each second", {"task_type": "fleet.pid", "catch_up": "all"}, by=ME, every_seconds=1)
    first, second = (celery("beat", f"--schedule={worker.path}.{n}", "--pidfile=") for n in (1, 2))
    with first, second:
        eventually(lambda: Task.objects.filter(task_type="fleet.pid").count() >= 5, PATIENCE_SECONDS)
    faults.happened("second beat")
    names = Counter(Task.objects.filter(task_type="fleet.pid").values_list("task_name", flat=True))
    faults.did(moments=len(names))
    faults.wrong(moments_doubled=sum(names.values()) - len(names))
    assert RecurringSlot.objects.get().last_slot is not None


# -- handlers -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("lines", [2_000, pytest.param(100_000, marks=pytest.mark.deep)])
def test_a_handler_that_prints_without_end_fills_no_row(worker, faults, lines):
    task_id = enqueue("fleet.prints", {"lines": lines})
    eventually(lambda: status_of(task_id) == "completed", PATIENCE_SECONDS + lines / 100)
    faults.happened(f"{lines // 1000} MB printed")
    kept = Execution.objects.get(task_id=task_id).log_lines
    assert kept.startswith("... ")
    assert "earlier lines are not kept" in kept
    faults.did(tasks=1)
    faults.wrong(characters_too_many=max(0, len(kept) - 250_000))


def test_handlers_that_misbehave_harm_their_own_task_alone(worker, faults):
    """Those that only leave something behind succeed; the others fail once; the processes stay, and go on."""
    pids = {result_of(enqueue("fleet.pid")) for _ in range(6)}
    ids = {kind: enqueue("fleet.misbehaves", kind) for kind in MISDEEDS}
    others = enqueue_many(NewTask(task_type="fleet.naps", payload={"seconds": 0.01}) for _ in range(30))
    sweep_until(lambda: not Task.objects.filter(completed_at=None).exists())
    faults.happened("misdeed of a handler", len(ids))
    harmless = {"fork", "leave a thread", "leave a transaction open"}
    found = {kind for kind, task_id in ids.items() if status_of(task_id) == "completed"}
    assert found == harmless
    assert result_of(ids["fork"]) == "parent"
    assert pids <= set(worker.children()), "a process was lost"
    count(faults, 6 + len(harmless) + len(others))


def result_of(task_id):
    sweep_until(lambda: status_of(task_id) == "completed")
    return Execution.objects.get(task_id=task_id).result


@pytest.mark.deep
def test_a_process_whose_handlers_leak_is_replaced_between_tasks(celery, faults):
    limits = {"MISTERSMITH_WORKER_MAX_MEMORY_MB": "250", "MISTERSMITH_TASKS_LEASE_SECONDS": "5"}
    with celery("worker", "--concurrency=1", "--loglevel=INFO", **limits) as process:
        eventually(lambda: " ready." in process.log)
        ids = []
        for _ in range(6):
            ids.append(enqueue("fleet.leaks", {"size_mb": 100}))
            sweep_until(lambda: status_of(ids[-1]) == "completed")
    pids = list(Execution.objects.filter(task_id__in=ids).values_list("result", flat=True))
    faults.happened("100 MB leaked", len(ids))
    assert 2 <= len(set(pids)) <= len(ids)
    count(faults, len(ids))


# -- clocks and locks -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("jump_seconds", [-365 * 86_400, 365 * 86_400])
def test_a_worker_whose_clock_jumps_keeps_its_lease_and_takes_nobody_else_s(
    agent_id, faults, monkeypatch, jump_seconds
):
    """Leases, schedules and expiry go by PostgreSQL's clock alone."""
    first = enqueue("echo")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump_seconds)
    faults.happened("clock jumped a year")
    second = enqueue("echo")
    items = claim("echo", agent_id, limit=2)
    assert {item.task_id for item in items} == {first, second}
    assert take_back_leases() == 0
    assert heartbeat_leases(agent_id, items) == {first, second}
    assert tickets.waited_seconds(type("Request", (), {"headers": {tickets.SENT_AT: real()}})) >= 0
    stored = [finish(item, None) for item in items]
    faults.did(tasks=sum(stored))
    faults.wrong(tasks_lost=2 - sum(stored), tasks_at_once=overlapping_attempts())


def test_of_two_claims_that_deadlock_one_goes_on_and_the_other_may_try_again(agent_id, other_id, faults):
    """Each holds the lock of one limit and asks for the other's: a program may claim two types in one transaction."""
    for task_type in ("a", "b"):
        set_limit("type", task_type, Bounds(max_running=10), ME)
        enqueue_many(NewTask(task_type=task_type) for _ in range(2))
    both, got, victims = threading.Barrier(2), [], []

    def run(worker_id, order):
        try:
            with transaction.atomic():
                items = claim(order[0], worker_id)
                both.wait(20)
                items += claim(order[1], worker_id)
            got.extend(items)
        except OperationalError as error:
            victims.append(error)
        connection.close()

    threads = [threading.Thread(target=run, args=args) for args in ((agent_id, "ab"), (other_id, "ba"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [error.__cause__.sqlstate for error in victims] == ["40P01"]
    faults.happened("deadlock")
    got += [*claim("a", agent_id, limit=5), *claim("b", agent_id, limit=5)]
    faults.did(tasks=len(got))
    faults.wrong(tasks_lost=4 - len(got), tasks_doubled=len(got) - len({item.task_id for item in got}))


# -- everything at once ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("number", "seconds"),
    [
        pytest.param(500, 6, marks=LATER),
        pytest.param(10_000, 120, id="10000-in-120-s", marks=pytest.mark.deep),
    ],
)
def test_thousands_of_tasks_outlive_random_kills(installation, faults, number, seconds):
    """Workers, their parent, the bridge, beat, PostgreSQL, nats-server, and the broker, whose memory is lost; processes
    that freeze until others have taken over what they had in hand. Work arrives all the time: each fault meets some.
    """
    began, dice, accepted = time.monotonic(), random.Random(6), installation.accepted
    while (passed := time.monotonic() - began) < seconds:
        due = int(number * min(1.0, passed / seconds + 0.05)) - (installation.accepted - accepted)
        installation.enqueue(max(due, 0), ENQUEUE_PATIENT)
        before = installation.completed()
        strike(installation, faults, dice.choice(VICTIMS))
        eventually(lambda: installation.completed() > before or installation.is_done(), PATIENCE_SECONDS)  # noqa: B023
    installation.enqueue(number - (installation.accepted - accepted), ENQUEUE_PATIENT)
    eventually(installation.is_done, 600)
    installation.count(faults)
    overlapping = (
        "SELECT count(*) FROM tasks.executions e JOIN tasks.executions l"
        " ON l.task_id = e.task_id AND l.execution_attempt = e.execution_attempt + 1"
        " WHERE e.completed_at IS NULL OR l.started_at < e.completed_at"
    )
    miscounted = (
        "SELECT count(*) FROM tasks.queue q WHERE q.attempt <>"
        " (SELECT count(*) FROM tasks.executions e WHERE e.task_id = q.task_id)"
    )
    faults.did(attempts=int(installation.ask("SELECT count(*) FROM tasks.executions")[0][0]))
    faults.wrong(
        tasks_at_once=int(installation.ask(overlapping)[0][0]),
        attempts_miscounted=int(installation.ask(miscounted)[0][0]),
    )


@pytest.mark.parametrize("seconds", [5, pytest.param(600, id="600-s", marks=pytest.mark.deep)])
def test_a_broker_that_is_gone_for_long_costs_time_and_no_task(installation, faults, seconds):
    """Ten tasks arrive each second; tickets are lost or given up meanwhile, and workers look for their broker."""
    broker = installation.servers["valkey"]
    faults.kill("valkey", broker)
    forget(installation)
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        installation.enqueue(10, ENQUEUE_PATIENT)
        eventually(lambda: time.monotonic() - began >= passed + 1)
    faults.happened(f"broker away for {seconds} s")
    broker.start()
    eventually(installation.is_done, PATIENCE_SECONDS + seconds)
    installation.count(faults)


VICTIMS = ["worker process", "frozen process", "worker", "bridge", "beat", "postgres", "nats", "valkey"]
COMMANDS = {"bridge": BRIDGE, "worker": WORKER, "beat": BEAT}


def strike(installation, faults, victim):
    """Kill one of them and start it again (the broker comes back with nothing), or freeze one for a while."""
    if victim == "worker process":
        for child in psutil.Process(installation.processes["worker"].pid).children()[:1]:
            faults.kill(victim, child.pid)
    elif victim == "frozen process":
        freeze(installation, faults)
    elif victim in COMMANDS:
        orphans = psutil.Process(installation.processes[victim].pid).children(recursive=True)
        faults.kill(victim, installation.processes[victim])
        psutil.wait_procs(orphans, timeout=60)
        installation.start(victim, *COMMANDS[victim])
    else:
        faults.kill(victim, installation.servers[victim])
        if victim == "valkey":
            forget(installation)
            faults.happened("broker's memory lost")
        installation.servers[victim].start()


def freeze(installation, faults):
    """Stop a process that has tasks in hand until all of them were taken back, then let it go on: a zombie."""
    in_hand = (
        "SELECT split_part(r.agent_name, ':', 2)::integer, count(*) FROM tasks.queue q"
        " JOIN agents.registry r ON r.agent_id = q.worker WHERE q.status = 'running' GROUP BY 1"
    )
    children = [child.pid for child in psutil.Process(installation.processes["worker"].pid).children()]
    for pid in children:
        os.kill(pid, signal.SIGSTOP)
        try:
            if dict(installation.ask(in_hand)).get(pid):
                faults.happened("worker process frozen")
                eventually(lambda: pid not in dict(installation.ask(in_hand)), PATIENCE_SECONDS)  # noqa: B023
                return
        finally:
            os.kill(pid, signal.SIGCONT)


def forget(installation):
    """Remove what the broker would read from disk: its memory is lost."""
    shutil.rmtree(installation.servers["valkey"].server.directory / "data" / "appendonlydir")
