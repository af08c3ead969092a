"""Agents outside Celery work on tasks over NATS: as others see them, over a real server."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
from datetime import timedelta

import nats
import pytest
from django.utils import timezone

from agents.models import Agent
from agents.registry import suspend_agent
from bridge import connection, task_service
from bridge.task_service import TaskService, subject_of
from cockpit.servers import Nats, Running
from cockpit.servers.base import write_private
from cockpit.servers.ports import HOST
from pg.uuid7 import uuid7
from sessions.lifecycle import open_session, revoke_all
from tasks import agent_types
from tasks.claim import cancel
from tasks.enqueue import After, enqueue
from tasks.models import Execution, Task, TaskPause
from tasks.policy import Policy
from tasks.sweep import take_back_leases
from tasks.task_pauses import pause_tasks, resume_tasks
from tests.bridge.conftest import MODULES, rows, wait_until
from tests.bridge.test_ingest import running
from tests.marks import LATER
from tests.schema.catalog import ROOT

pytestmark = pytest.mark.usefixtures("committed", "jetstream")
TYPE = "outside"


def later(test):
    """Proved in each run of CI, not in `make test`: each takes half a second."""
    for mark in LATER:
        test = mark(test)
    return test


@pytest.fixture(autouse=True)
def outside(committed):
    agent_types.register_for_agents(TYPE, Policy(max_retries=1, retry_delay_seconds=0, retry_jitter=False))
    yield
    for table in ("tasks.dependencies", "tasks.executions", "tasks.queue"):
        rows(f"DELETE FROM {table}")


class Client:
    """An agent, as far as NATS sees it: a subject, a token, a connection."""

    def __init__(self, agent, permissions=None, link=None):
        self.agent = agent
        granted = {"tasks": [TYPE]} if permissions is None else permissions
        self.session, self.token = open_session(
            timedelta(hours=1), agent_id=agent.pk, session_type="api", permissions=granted
        )

    def ask(self, call, asked=None, *, subject=None, token=None, timeout_seconds=30):
        data = asked if isinstance(asked, bytes) else json.dumps(asked or {}).encode()
        headers = {"Session-Token": self.token if token is None else token}
        subject = subject or subject_of(self.agent.pk, call)

        async def request(client):
            return await client.nc.request(subject, data, timeout=timeout_seconds, headers=headers)

        return json.loads(connection.call(request, timeout_seconds + 5).data)

    def claim(self, **asked):
        answer = self.ask("claim", {"task_type": TYPE, **asked})
        assert answer["ok"], answer
        return answer["tasks"]


@pytest.fixture
def service():
    with running(TaskService()) as part:
        wait_until(lambda: part.is_prepared)
        yield part


@pytest.fixture
def me(agent):
    return Client(agent)


@pytest.fixture
def other(agent):
    return Client(Agent.objects.create(agent_type="reader", agent_name="reader-2"))


def named(task):
    return {"task_id": task["task_id"], "attempt": task["attempt"]}


def refusal(answer):
    assert answer["ok"] is False
    return answer["error"]["code"], answer["error"]["message"]


# -- the way of a task ------------------------------------------------------------------------------------------
def test_an_agent_claims_reports_and_completes_and_its_attempt_is_recorded(service, me):
    task_id = enqueue(TYPE, {"url": "https://example.org"})
    (task,) = me.claim(limit=5)
    assert (task["task_id"], task["attempt"], task["payload"]) == (
        str(task_id),
        1,
        {"url": "https://example.org"},
    )
    assert me.ask("progress", {**named(task), "percent": 40, "note": "reading"}) == {
        "ok": True,
        "is_stored": True,
    }
    assert Task.objects.get(pk=task_id).progress == {"percent": 40, "note": "reading"}
    told = {"result": {"n": 1}, "logs": "a line\npassword=hunter2", "cpu_time_ms": 12}
    assert me.ask("complete", {**named(task), **told}) == {
        "ok": True,
        "is_stored": True,
        "status": "completed",
    }
    execution = Execution.objects.get(task_id=task_id)
    assert (execution.status, execution.result, execution.agent_id) == ("completed", {"n": 1}, me.agent.pk)
    assert (execution.cpu_time_ms, "hunter2" in execution.log_lines) == (12, False)
    assert me.claim() == []


def test_a_failure_is_tried_again_until_the_retries_are_spent(service, me):
    enqueue(TYPE)
    seen = []
    for _ in range(2):
        (task,) = me.claim()
        seen.append(me.ask("fail", {**named(task), "message": "no luck", "delay_seconds": 0})["status"])
    assert seen == ["queued", "failed"]
    assert list(Execution.objects.values_list("error_message", flat=True)) == ["no luck"] * 2


@later
def test_a_permanent_failure_is_not_tried_again(service, me):
    enqueue(TYPE)
    (task,) = me.claim()
    answer = me.ask("fail", {**named(task), "message": "never", "is_permanent": True})
    assert answer["status"] == "failed"


@later
def test_what_the_agent_cannot_begin_goes_back_without_a_retry(service, me):
    task_id = enqueue(TYPE)
    (task,) = me.claim()
    assert me.ask("release", named(task))["status"] == "queued"
    row = Task.objects.get(pk=task_id)
    assert (row.status, row.attempt, row.retry_count) == ("queued", 1, 0)


@later
def test_results_of_others_reach_the_agent(service, me):
    first = enqueue(TYPE)
    second = enqueue(TYPE, depends_on=[After(first, "data", "page")])
    me.ask("complete", {**named(me.claim()[0]), "result": [1, 2]})
    (task,) = me.claim()
    assert task["task_id"] == str(second)
    assert me.ask("inputs", named(task))["inputs"] == {"page": [1, 2]}


def test_a_claim_that_waits_gets_the_task_that_comes_meanwhile(service, me):
    got = []
    thread = threading.Thread(target=lambda: got.extend(me.claim(wait_seconds=30)))
    thread.start()
    wait_until(lambda: service.waiting)
    task_id = enqueue(TYPE)
    thread.join(30)
    assert [task["task_id"] for task in got] == [str(task_id)]


@later
def test_a_claim_that_waited_in_vain_is_answered_with_nothing(service, me):
    assert me.claim(wait_seconds=0.3) == []


@later
def test_a_task_of_another_agent_s_is_not_claimed(service, me, other):
    task_id = enqueue(TYPE, assigned_agent=other.agent.pk)
    assert me.claim() == []
    assert [task["task_id"] for task in other.claim()] == [str(task_id)]


@later
def test_a_restarted_agent_finds_what_it_had(service, me):
    task_id = enqueue(TYPE, "p")
    me.claim()
    (task,) = me.ask("held")["tasks"]
    assert (task["task_id"], task["attempt"], task["payload"]) == (str(task_id), 1, "p")
    assert me.ask("held", {"payloads": False})["tasks"][0]["payload"] is None


# -- fences -----------------------------------------------------------------------------------------------------
def test_whoever_is_too_late_changes_nothing_and_is_told_what_became_of_it(service, me, other):
    task_id = enqueue(TYPE)
    (mine,) = me.claim()
    Task.objects.update(lease_until=timezone.now() - timedelta(minutes=1))
    take_back_leases()
    (theirs,) = other.claim()
    assert (theirs["task_id"], theirs["attempt"]) == (str(task_id), 2)
    assert me.ask("complete", {**named(mine), "result": "late"}) == {
        "ok": True,
        "is_stored": False,
        "status": "running",
    }
    assert me.ask("complete", {**named(theirs), "result": "stolen"})["is_stored"] is False
    assert other.ask("complete", {**named(theirs), "result": "right"})["is_stored"] is True
    assert Execution.objects.get(status="completed").result == "right"


@later
def test_completing_twice_is_harmless(service, me):
    enqueue(TYPE)
    (task,) = me.claim()
    answers = [me.ask("complete", {**named(task), "result": n}) for n in (1, 2)]
    assert [answer["is_stored"] for answer in answers] == [True, False]
    assert answers[1]["status"] == "completed"
    assert Execution.objects.get().result == 1


def test_a_heartbeat_renews_what_is_held_and_names_what_is_lost(service, me):
    ids = [enqueue(TYPE) for _ in range(2)]
    tasks = {task["task_id"]: task for task in me.claim(limit=2)}
    cancel(ids[:1])
    Task.objects.filter(pk=ids[1]).update(lease_until=timezone.now())
    answer = me.ask("heartbeat", {"tasks": [named(task) for task in tasks.values()]})
    assert answer["held"] == [str(ids[1])]
    assert answer["lost"] == [{"task_id": str(ids[0]), "status": "cancelled"}]
    assert Task.objects.get(pk=ids[1]).lease_until > timezone.now() + timedelta(seconds=10)


def test_an_agent_is_told_that_its_task_is_paused_and_says_that_it_stands_still(service, me):
    task_id = enqueue(TYPE)
    (task,) = me.claim()
    beat = lambda **told: me.ask("heartbeat", {"tasks": [{**named(task), **told}]})["paused"]  # noqa: E731
    assert beat() == []
    pause_tasks([task_id])
    assert beat() == [str(task_id)]
    assert TaskPause.objects.get().stands_since is None
    assert beat(is_standing=True) == [str(task_id)]
    assert TaskPause.objects.get().stands_since is not None
    resume_tasks([task_id])
    assert beat(is_standing=True) == []
    assert beat() == []
    assert not TaskPause.objects.exists()
    assert me.ask("complete", named(task))["is_stored"] is True


# -- who may ------------------------------------------------------------------------------------------------------
def test_without_a_token_of_its_own_nobody_works(service, me, other):
    enqueue(TYPE)
    asked = {"task_type": TYPE}
    answers = [
        me.ask("claim", asked, token=""),
        me.ask("claim", asked, token="x" * 43),
        me.ask("claim", asked, token=other.token),
        me.ask("claim", asked, subject=subject_of(other.agent.pk, "claim")),
    ]
    revoke_all(me.agent.pk)
    answers.append(me.ask("claim", asked))
    assert {refusal(answer)[0] for answer in answers} == {"unauthenticated"}
    assert not Execution.objects.exists()


@later
def test_a_session_claims_what_it_permits_and_nothing_else(service, agent):
    enqueue(TYPE)
    for permissions in ({}, {"tasks": []}, {"tasks": 1}, {"tasks": ["elsewhere"]}):
        answer = Client(agent, permissions).ask("claim", {"task_type": TYPE})
        assert refusal(answer)[0] == "forbidden", permissions
        assert answer["error"]["hint"]


@later
def test_a_session_may_permit_every_type(service, agent):
    enqueue(TYPE)
    assert len(Client(agent, {"tasks": "*"}).claim()) == 1


@later
def test_a_suspended_agent_ends_what_it_has_and_claims_nothing(service, me):
    enqueue(TYPE)
    enqueue(TYPE)
    (task,) = me.claim()
    suspend(me.agent)
    assert refusal(me.ask("claim", {"task_type": TYPE}))[0] == "forbidden"
    assert me.ask("complete", named(task))["is_stored"] is True


def suspend(agent):
    Agent.objects.filter(pk=agent.pk).update(status="active")
    suspend_agent(agent.pk)


SENSELESS = [
    ("claim", b"[1]", "JSON object"),
    ("claim", b"{", "not JSON"),
    ("claim", {}, "task_type"),
    ("claim", {"task_type": TYPE, "limit": 0}, "limit=0"),
    ("claim", {"task_type": TYPE, "limit": 101}, "limit=101"),
    ("claim", {"task_type": TYPE, "wait_seconds": 31}, "wait_seconds=31"),
    ("complete", {"task_id": "x", "attempt": 1}, "'x'"),
    ("complete", {"task_id": str(uuid7())}, "attempt=0"),
    ("heartbeat", {"tasks": "all"}, "tasks: must be a list"),
    ("explode", {}, "no such call"),
]


def test_a_request_that_makes_no_sense_is_told_why(service, me):
    for call, asked, words in SENSELESS:
        code, message = refusal(me.ask(call, asked))
        assert code == "refused"
        assert words in message


@later
def test_a_result_that_postgresql_cannot_hold_is_refused_and_the_task_stays(service, me):
    enqueue(TYPE)
    (task,) = me.claim()
    for result in (b'"\\u0000"', b"NaN"):
        body = json.dumps(named(task)).encode()[:-1] + b', "result": ' + result + b"}"
        assert refusal(me.ask("complete", body))[0] == "refused"
    assert me.ask("complete", {**named(task), "result": "good"})["is_stored"] is True


@later
def test_an_unknown_type_is_refused_with_the_way_to_register_it(service, agent):
    answer = Client(agent, {"tasks": "*"}).ask("claim", {"task_type": "nobody's"})
    assert refusal(answer)[0] == "refused"
    assert "tasks register" in answer["error"]["hint"]


@later
def test_a_reply_to_a_subject_that_means_something_is_never_sent(service, me):
    """Else an agent could have the control plane write where it may not."""
    enqueue(TYPE)
    seen = []

    async def listen(client):
        await client.nc.subscribe("$KV.AGENT_STATE.>", cb=keep)

    async def keep(message):
        seen.append(message)

    async def send(client):
        await client.nc.publish(
            subject_of(me.agent.pk, "claim"),
            json.dumps({"task_type": TYPE}).encode(),
            reply="$KV.AGENT_STATE.other.key",
            headers={"Session-Token": me.token},
        )

    connection.call(listen)
    connection.call(send)
    wait_until(lambda: service.refused == 1)
    assert len(me.claim()) == 1, "nothing was claimed for it either"
    assert seen == []


# -- sizes and outages --------------------------------------------------------------------------------------------
@later
def test_an_answer_holds_as_many_tasks_as_nats_takes_and_the_rest_goes_back(service, me):
    ids = [enqueue(TYPE, "x" * 1_500_000) for _ in range(3)]
    assert len(me.claim(limit=3)) == 2
    assert sorted(Task.objects.filter(pk__in=ids).values_list("status", flat=True)) == [
        "queued",
        "running",
        "running",
    ]
    assert len(me.claim()) == 1
    assert refusal(me.ask("held"))[1].endswith("too many for NATS")
    assert len(me.ask("held", {"payloads": False})["tasks"]) == 3


@later
def test_a_task_that_no_answer_could_hold_fails_for_good(service, me):
    task_id = enqueue(TYPE, "x" * 4_500_000)
    assert me.claim() == []
    task = Task.objects.get(pk=task_id)
    assert (task.status, "too large" in task.status_reason) == ("failed", True)


@later
def test_a_claim_whose_sender_has_long_gone_leases_nothing(service, me, monkeypatch):
    enqueue(TYPE)
    monkeypatch.setattr(task_service, "STALE_SECONDS", -1)
    assert refusal(me.ask("claim", {"task_type": TYPE}))[0] == "busy"
    assert Task.objects.get().status == "queued"


@later
def test_requests_beyond_the_backlog_are_told_to_come_again(me):
    part = TaskService()
    part.inbox.maxsize = 1
    part._listeners[0].begin()
    got = []
    first = threading.Thread(target=lambda: got.append(me.ask("held")))
    first.start()
    wait_until(lambda: part.inbox.full())
    assert refusal(me.ask("held"))[0] == "busy"
    part.end()
    first.join(30)
    assert (refusal(got[0])[0], got[0]["error"]["retry"]) == ("busy", True), (
        "a bridge that stops leaves nobody waiting"
    )


@later
def test_no_ticket_is_sent_for_types_that_agents_do(monkeypatch):
    from tasks import sweep, tickets

    sent = []
    monkeypatch.setattr(tickets, "send", lambda *ticket: sent.append(ticket))
    enqueue(TYPE)
    sweep.send_tickets()
    assert tickets.flush(30)
    assert TYPE not in {ticket[0] for ticket in sent}


# -- two accounts: what the server itself refuses -----------------------------------------------------------------
ACCOUNTS = """
listen: "{host}:{port}"
http: "{host}:{monitor_port}"
max_payload: 4MB
jetstream {{ store_dir: "{store}" }}
accounts {{
  APP {{
    jetstream: enabled
    users: [ {{ user: app, password: secret }} ]
    exports: [ {{ service: "smith.v1.agent.>" }} ]
  }}
  AGENTS {{
    imports: [ {{ service: {{ account: APP, subject: "smith.v1.agent.>" }} }} ]
    users: [
      {{ user: "{agent}", password: secret, permissions: {{
        publish: ["smith.v1.agent.{agent}.>"], subscribe: ["_INBOX_{agent}.>"] }} }}
    ]
  }}
}}
"""


class TwoAccounts(Nats):
    def configure(self):
        super().configure()
        values = {
            "host": HOST,
            "port": self.port(),
            "monitor_port": self.port("monitor_port"),
            "store": self.directory / "jetstream",
            "agent": self.agent,
        }
        write_private(self.configuration, ACCOUNTS.format(**values))


@pytest.fixture
def accounts(own_home, agent, settings):
    server = TwoAccounts(own_home)
    server.agent = str(agent.pk)
    started = Running(server).start()
    where = server.url().rpartition("@")[2]
    connection.close()
    settings.NATS_URL = f"nats://app:secret@{where}"
    yield f"nats://{agent.pk}:secret@{where}"
    connection.close()
    started.stop()


@later
def test_the_example_works_with_the_permissions_that_the_docs_give(accounts, service, me, other):
    """Agents in an account without JetStream: each may ask for itself alone, and listen to its own answers alone."""
    ids = [enqueue(TYPE, n) for n in range(3)]
    environ = {
        **os.environ,
        "NATS_URL": accounts,
        "AGENT_ID": str(me.agent.pk),
        "SESSION_TOKEN": me.token,
    }
    command = [sys.executable, "examples/agent_nats.py", TYPE, "3"]
    done = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("stored") == 3
    results = Execution.objects.filter(task_id__in=ids, status="completed").values_list(
        "result__echo", flat=True
    )
    assert sorted(results) == [0, 1, 2]


@pytest.mark.deep
def test_the_example_in_node_claims_renews_reports_and_ends(node, tmp_path, accounts, service, me):
    """One task whose lease is renewed, one that fails until its retry is spent, one that is cancelled in hand."""
    shutil.copy(ROOT / "examples/agent_nats.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(MODULES / "node_modules")
    ids = {
        name: enqueue(TYPE, payload, priority=priority)
        for name, payload, priority in (
            ("long", {"seconds": 3}, "critical"),
            ("bad", {"error": "no luck"}, "high"),
            ("cancelled", {"seconds": 600}, "low"),
        )
    }
    process = subprocess.Popen(
        [node, "agent_nats.mjs", TYPE, "4"],  # the one that fails is tried twice
        cwd=tmp_path,
        env={
            **os.environ,
            "NATS_URL": accounts,
            "AGENT_ID": str(me.agent.pk),
            "SESSION_TOKEN": me.token,
            "HEARTBEAT_SECONDS": "0.2",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: lease_of(ids["long"]) or process.poll() is not None, 60)
        first = lease_of(ids["long"])
        wait_until(lambda: lease_of(ids["long"]) != first or process.poll() is not None, 60)
        assert Task.objects.get(pk=ids["long"]).progress == {"percent": 50, "note": "half"}
        wait_until(lambda: lease_of(ids["cancelled"]) or process.poll() is not None, 60)
        cancel([ids["cancelled"]], "not needed")
        out, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert out.splitlines()[0] == f"{ids['long']} stored"
    tasks = {name: Task.objects.get(pk=task_id) for name, task_id in ids.items()}
    assert {name: task.status for name, task in tasks.items()} == {
        "long": "completed",
        "bad": "failed",
        "cancelled": "cancelled",
    }
    done = Execution.objects.filter(task_id=ids["long"]).values_list("status", "result__echo__seconds")
    assert list(done) == [("completed", 3)]
    assert (tasks["bad"].attempt, tasks["bad"].status_reason) == (2, "RangeError: no luck")


def lease_of(task_id):
    return Task.objects.values_list("lease_until", flat=True).get(pk=task_id)


@later
def test_the_server_refuses_what_is_not_the_agent_s(accounts, service, me, other):
    violations = []

    async def attack():
        all_told = asyncio.Event()

        async def note(error):
            if "permissions violation" in str(error).lower():
                violations.append(error)
            if len(violations) == 3:
                all_told.set()

        client = await nats.connect(accounts, inbox_prefix=f"_INBOX_{me.agent.pk}".encode(), error_cb=note)
        await client.publish(subject_of(other.agent.pk, "claim"), b"{}")
        await client.publish("$JS.API.STREAM.LIST", b"")
        await client.subscribe(f"_INBOX_{other.agent.pk}.>")
        await client.flush()
        await asyncio.wait_for(all_told.wait(), 60)  # the client tells of errors in a task of its own
        await client.close()

    asyncio.run(attack())
    assert len(violations) == 3
