import json
import os
import signal
import subprocess
import sys
from io import StringIO

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.db import connection as db

from agents.models import Agent, AgentState
from bridge import checks, connection, fence, metrics, setup, topology
from bridge.fence import LEADER
from bridge.figures import Reporter
from bridge.flush_runner import Flusher
from bridge.management.commands.bridge import make_parts
from bridge.models import QuarantinedRow
from bridge.reader import Reader
from bridge.runner import Relay
from bridge.session import execute, open_session
from operators.models import AuditEntry
from tests.bridge.conftest import delete, empty_outbox, outbox, rows, value, wait_until

pytestmark = pytest.mark.usefixtures("committed", "jetstream")


def run(*words):
    """Return (exit code, what --json printed)."""
    out, code = StringIO(), 0
    try:
        call_command("bridge", *words, "--json", stdout=out)
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, json.loads(out.getvalue())


def test_setup_plans_applies_and_has_nothing_left():
    connection.call(lambda c: c.jetstream.delete_stream("KV_AGENT_CONFIG"))
    code, planned = run("setup", "--dry-run")
    assert (code, [(s["action"], s["object"]) for s in planned["steps"]]) == (
        0,
        [("create", "KV_AGENT_CONFIG")],
    )
    assert run("setup", "--dry-run")[1]["steps"] == planned["steps"]
    assert run("setup")[1]["steps"] == planned["steps"]
    assert run("setup") == (0, {"ok": True, "command": "bridge setup", "steps": [], "items": [], "counts": {},
                                "warnings": []})  # fmt: skip


def test_setup_refuses_what_cannot_be_changed_and_exits_1(own_jetstream):
    name = "KV_QUERY_CACHE"
    config = topology.buckets()["QUERY_CACHE"].config(1).evolve(storage="file", compression="none")
    connection.call(lambda c: c.jetstream.delete_stream(name))
    connection.call(lambda c: c.jetstream.add_stream(config))
    code, answer = run("setup")
    assert (code, answer["ok"]) == (1, False)
    assert [(s["action"], s["object"], s["why"]) for s in answer["steps"]] == [
        ("refuse", name, "storage is file, declared memory")
    ]


def test_setup_without_nats_exits_2_with_a_hint(settings, monkeypatch):
    settings.NATS_URL = "nats://127.0.0.1:1"
    monkeypatch.setattr(connection, "PATIENCE_SECONDS", 0.2)
    connection.close()
    with pytest.raises(CommandError, match="HINT: is nats-server up") as caught:
        call_command("bridge", "setup")
    assert caught.value.returncode == 2
    connection.close()


def test_reconcile_exits_1_while_something_is_wrong(agent):
    relay_all()
    assert run("reconcile")[0] == 0
    delete("AGENT_CONFIG", str(agent.pk))
    code, answer = run("reconcile", "--dry-run")
    assert (code, answer["ok"], answer["counts"]["missing"], answer["counts"]["left"]) == (1, False, 1, 1)
    assert answer["warnings"] == [f"AGENT_CONFIG {agent.pk}: missing"]
    code, answer = run("reconcile")
    assert (code, answer["counts"]["repaired"]) == (0, 1)
    assert run("reconcile", "--dry-run")[0] == 0


def relay_all():
    from bridge.relay import Memory, relay_batch

    with open_session() as session:
        while relay_batch(session, Memory()).read:
            pass


def test_status_tells_what_waits_and_who_leads(agent):
    rows("UPDATE bridge.outbox SET created_at = now() - interval '90 seconds'")
    code, answer = run("status")
    assert (code, answer["ok"]) == (1, False)
    assert answer["counts"]["outbox_rows"] == len(outbox()) > 0
    assert 90 <= answer["counts"]["outbox_oldest_seconds"] < 120
    assert answer["counts"]["relay_leading"] == 0
    relay_all()
    with open_session([f"SELECT pg_advisory_lock({LEADER})"]):
        code, answer = run("status")
    assert (code, answer["counts"]) == (0, {"outbox_rows": 0, "outbox_oldest_seconds": 0, "relay_leading": 1,
                                            "quarantined": 0, "conflicts": 0, "dead_letters": 0})  # fmt: skip
    items = {(item["kind"], item["name"]): item for item in answer["items"]}
    assert items["bucket", "AGENT_CONFIG"]["messages"] == 1
    assert items["stream", "AGENT_STATE"]["bytes"] > 0
    assert all(item["drift"] == "" for item in answer["items"])


def test_what_the_parts_measured_is_shown_and_renewed(agent, admin_client):
    parts = [Relay(), Flusher("AGENT_STATE")]
    parts[0].lags.add([0.001, 0.002])
    parts[1].pending = 7
    reporter = Reporter(parts)
    with open_session() as session:
        reporter.is_stopping = True  # one turn, without the pause
        reporter.turn(session)
        reporter.turn(session)
        items = [item for item in run("status")[1]["items"] if item["kind"] == "part"]
        shown = {item["name"].split(" ", 1)[1]: item for item in items}
        page = admin_client.get("/admin/bridge/process/live/").content.decode()
        samples = {name: list(read()) for name, (_, read) in metrics.METRICS.items()}
        execute(session, "DELETE FROM bridge.processes")
    assert set(shown) == {"relay", "flusher AGENT_STATE", "nats"}
    assert "p99_ms=2.0" in shown["relay"]["did"]
    assert shown["flusher AGENT_STATE"]["messages"] == 7
    assert "flusher AGENT_STATE" in page
    assert {labels["quantile"]: value for labels, value in samples["mistersmith_bridge_lag_seconds"]} == {
        "p50": 0.001, "p95": 0.002, "p99": 0.002
    }  # fmt: skip
    assert [value for _, value in samples["mistersmith_bridge_pending_messages"]] == [7]
    assert len(samples["mistersmith_bridge_reconnects_count"]) == 1


def test_status_and_the_admin_show_a_drifted_consumer(admin_client):
    item = topology.consumers()["AGENT_MESSAGES/message-batch-processor"]
    connection.call(lambda c: c.jetstream.add_consumer(item.stream, item.config().evolve(ack_wait=7)))
    with open_session([f"SELECT pg_advisory_lock({LEADER})"]):
        code, answer = run("status")
        page = admin_client.get("/admin/bridge/source/topology/").content.decode()
        setup.apply_plan(setup.make_plan(setup.read_found()))
        repaired, _ = run("status")
    [drifted] = [row for row in answer["items"] if row["drift"]]
    assert (drifted["name"], drifted["kind"]) == (item.label, "consumer")
    assert drifted["drift"].startswith("update: ack_wait is 7")
    assert (code, repaired) == (1, 0)
    assert f'{item.label}</td><td class="p-2">consumer' in page


def test_drift_is_shown_in_the_admin_and_repaired_there_with_a_reason(admin_client):
    url = "/admin/bridge/source/topology/"
    assert "Everything is as declared." in admin_client.get(url).content.decode()
    connection.call(lambda c: c.jetstream.delete_stream("KV_AGENT_CONFIG"))
    page = admin_client.get(url).content.decode()
    assert "create KV_AGENT_CONFIG" in page
    assert "field is required" in admin_client.post(url, {"reason": " "}).content.decode()
    assert setup.make_plan(setup.read_found())
    page = admin_client.post(url, {"reason": "deleted by mistake"}, follow=True).content.decode()
    assert "1 steps done." in page
    assert setup.make_plan(setup.read_found()) == []
    told = AuditEntry.objects.get(action="bridge.setup")
    assert (told.objects_touched, told.reason) == (["KV_AGENT_CONFIG"], "deleted by mistake")


def test_buckets_and_streams_are_repaired_only_by_those_who_may(client, settings):
    user = User.objects.create_user("looker", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_source"))
    client.force_login(user)
    url = "/admin/bridge/source/topology/"
    assert client.get(url).status_code == 200
    assert client.post(url, {"reason": "why not"}).status_code == 403
    settings.NATS_URL = "nats://127.0.0.1:1"
    connection.close()
    assert "127.0.0.1:1" in client.get(url).content.decode()
    connection.close()
    user.delete()


def test_without_a_bridge_the_live_page_says_so(admin_client, client):
    assert "No bridge runs" in admin_client.get("/admin/bridge/process/live/").content.decode()
    assert client.get("/admin/bridge/process/live/").status_code == 302


def test_each_declared_consumer_has_a_reader_in_every_bridge():
    parts = make_parts()
    read = {part.item.label for part in parts if isinstance(part, Reader)}
    flushed = {f"{part.flush.stream}/{topology.FLUSHER}" for part in parts if isinstance(part, Flusher)}
    assert read | flushed == set(topology.consumers()), "add it to make_parts in the command"


def test_run_relays_until_it_is_terminated(agent):
    relay = subprocess.Popen(
        [sys.executable, "manage.py", "bridge", "run"], env=os.environ, stderr=subprocess.PIPE
    )
    try:
        wait_until(lambda: fence.has_leader(db), 30)
        AgentState.objects.bulk_create([AgentState(agent=agent, state_key="a", state_value=1)])
        wait_until(lambda: value("AGENT_STATE", f"{agent.pk}.a") == 1)
        relay.send_signal(signal.SIGTERM)
        assert relay.wait(60) == 0
    finally:
        relay.kill()
        relay.communicate()
    wait_until(lambda: not fence.has_leader(db))


# -- doctor ----------------------------------------------------------------------------------------------------
def failures(name):
    return [finding for finding in checks.CHECKS[name]() if not finding.ok]


def test_doctor_is_content_when_all_is_well():
    with open_session([f"SELECT pg_advisory_lock({LEADER})"]):
        assert [name for name in checks.CHECKS if failures(name)] == []
        assert all(list(look()) for look in checks.CHECKS.values())


def test_doctor_names_drift():
    connection.call(lambda c: c.jetstream.delete_stream("KV_AGENT_CONFIG"))
    (finding,) = failures("bridge.topology")
    assert "KV_AGENT_CONFIG" in finding.detail
    assert finding.hint == "run manage.py bridge setup"


def test_doctor_names_a_server_whose_messages_are_too_small(settings):
    settings.BRIDGE_OVERRIDES = {"AGENT_STATE": {"max_value_bytes": 8 << 20}}
    assert any("max_payload" in finding.detail for finding in failures("bridge.topology"))


def test_doctor_names_a_late_outbox_a_missing_relay_and_a_quarantine(agent):
    rows("UPDATE bridge.outbox SET created_at = now() - interval '6 seconds'")
    assert "bridge run" in failures("bridge.outbox")[0].hint
    assert "bridge run" in failures("bridge.relay")[0].hint
    QuarantinedRow.objects.create(
        outbox_id=1, target="AGENT_CONFIG", key="x", op="D", created_at=agent.created_at, error="too large", attempts=5
    )  # fmt: skip
    assert "1 rows" in failures("bridge.quarantine")[0].detail


def test_metrics_are_read_from_the_outbox(agent):
    from monitoring.registry import metrics

    found = {metric.name: list(metric.read()) for metric in metrics() if "outbox" in metric.name}
    assert found["mistersmith_outbox_rows"] == [({}, len(outbox()))]
    assert found["mistersmith_outbox_oldest_seconds"][0][1] > 0
    assert found["mistersmith_outbox_quarantined_rows"] == [({}, 0)]


# -- the admin -------------------------------------------------------------------------------------------------
def test_operators_see_the_outbox_and_send_quarantined_rows_again(admin_client, agent):
    empty_outbox()
    row = {
        "target": "AGENT_CONFIG",
        "key": "x",
        "op": "D",
        "created_at": agent.created_at,
        "error": "e",
        "attempts": 5,
    }
    for number in (7, 8):
        QuarantinedRow.objects.create(outbox_id=number, **row)
    page = "/admin/bridge/quarantinedrow/"
    assert admin_client.get(page).status_code == 200
    for action, number in (("send_again", 7), ("drop", 8)):
        chosen = {"action": action, "_selected_action": [number], "confirmed": "1", "reason": "seen"}
        reply = admin_client.post(page, chosen, follow=True)
        assert reply.status_code == 200
    assert not QuarantinedRow.objects.exists()
    assert rows("SELECT outbox_id, key FROM bridge.outbox") == [(7, "x")]
    for path in ("outboxrow/", "outboxrow/7/change/", "conflict/"):
        assert admin_client.get(f"/admin/bridge/{path}").status_code == 200
    assert admin_client.get("/admin/bridge/outboxrow/add/").status_code == 403
    assert Agent.objects.count() == 1
