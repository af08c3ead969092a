"""State from PostgreSQL into KV: one agent's, a whole bucket's; phases, epochs, times to live."""

import json
from datetime import timedelta
from io import StringIO

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import transaction
from django.urls import reverse
from django.utils import timezone

from agents.models import Agent, AgentState
from agents.state import write_state
from bridge import connection, hydration, jobs, reconcile
from bridge.batches import BATCH_ID
from bridge.fence import FENCE
from bridge.hydration import hydrate_agent, release_agent, sweep
from bridge.keys import fence_key
from bridge.kv import read_entry_of_leader
from bridge.models import Hydration, Phase
from bridge.relay import Memory, relay_batch
from bridge.session import open_session
from bridge.state import AgentState as StateApi
from bridge.state_kv import AgentKeys
from operators.models import AuditEntry
from pg.errors import Refused, Unreachable
from tests.bridge.conftest import delete, empty_outbox, look, put, rows, value, wait_until
from tests.bridge.flushing import flush, write

pytestmark = pytest.mark.usefixtures("committed", "jetstream")


def quietly(agent, values, **options):
    """Write rows that the outbox does not see: as after NATS lost everything."""
    rows("SET session_replication_role = replica")
    write_state(agent.pk, values, **options)
    rows("SET session_replication_role = origin")


def relay(session):
    while relay_batch(session, Memory()).read:
        pass


def empty_kv():
    connection.call(lambda client: client.jetstream.purge_stream("KV_AGENT_STATE"))


def entry(agent, key):
    keys = AgentKeys(agent.pk)
    return connection.call(lambda client: read_entry_of_leader(client, keys.bucket, key, 5))


def phase(agent):
    return Hydration.objects.filter(agent=agent).values_list("phase", flat=True).first()


def run(*arguments):
    out = StringIO()
    call_command("bridge", *[str(each) for each in arguments], "--json", stdout=out)
    return json.loads(out.getvalue())


class TestOneAgent:
    def test_all_its_live_keys_are_in_kv_afterwards(self, agent, session):
        quietly(agent, {"a": {"x": 1}, "b c": None, "n": 3})
        other = Agent.objects.create(agent_type="reader", agent_name="reader-2")
        quietly(other, {"a": "other's"})
        done = hydrate_agent(session, agent.pk)
        assert vars(done.filled) == {"rows": 3, "stored": 3, "kept": 0, "pending": 0}
        assert value("AGENT_STATE", f"{agent.pk}.a") == {"x": 1}
        assert value("AGENT_STATE", f"{agent.pk}.b=20c") is None
        assert look("AGENT_STATE", f"{agent.pk}.b=20c").data == b"null"
        assert look("AGENT_STATE", f"{other.pk}.a") is None
        row = Hydration.objects.get(agent=agent)
        assert (row.phase, row.keys, row.stored, row.error) == (Phase.ACTIVE, 3, 3, "")

    def test_what_kv_has_stays_values_and_deletions_alike(self, agent, session):
        quietly(agent, {"newer": "row", "deleted": "row", "missing": "row"})
        put("AGENT_STATE", f"{agent.pk}.newer", "agent's")
        delete("AGENT_STATE", f"{agent.pk}.deleted")
        assert vars(hydrate_agent(session, agent.pk).filled) == {
            "rows": 3,
            "stored": 1,
            "kept": 2,
            "pending": 0,
        }
        assert value("AGENT_STATE", f"{agent.pk}.newer") == "agent's"
        assert look("AGENT_STATE", f"{agent.pk}.deleted").is_deleted

    @pytest.mark.parametrize("kept", [0, 1])
    def test_many_keys_come_in_batches_and_what_kv_has_of_them_stays(self, agent, session, kept):
        quietly(agent, {f"k{number}": "row" for number in range(40)})
        if kept:
            put("AGENT_STATE", f"{agent.pk}.k7", "agent's")
        filled = hydrate_agent(session, agent.pk).filled
        assert (filled.stored, filled.kept) == (40 - kept, kept)
        sent = connection.call(
            lambda c: c.jetstream.get_last_msg("KV_AGENT_STATE", f"$KV.AGENT_STATE.{agent.pk}.k9")
        )
        assert (BATCH_ID in sent.headers) == (not kept)
        assert value("AGENT_STATE", f"{agent.pk}.k7") == ("agent's" if kept else "row")

    def test_a_key_whose_write_is_on_its_way_is_left_to_the_relay(self, agent, session):
        quietly(agent, {"a": 1})
        AgentState.objects.filter(state_key="a").update(state_value=2)
        assert hydrate_agent(session, agent.pk).filled.pending == 1
        assert look("AGENT_STATE", f"{agent.pk}.a") is None
        relay(session)
        assert value("AGENT_STATE", f"{agent.pk}.a") == 2

    def test_hydrated_values_are_no_agents_writes(self, agent, session):
        quietly(agent, {"a": 1})
        hydrate_agent(session, agent.pk)
        assert not look("AGENT_STATE", f"{agent.pk}.a").is_foreign
        AgentState.objects.filter(state_key="a").update(state_value=2)
        relay(session)
        assert (value("AGENT_STATE", f"{agent.pk}.a"), rows("SELECT count(*) FROM bridge.conflict")) == (
            2,
            [(0,)],
        )

    def test_a_time_to_live_goes_along_and_what_is_over_stays_out(self, agent, session):
        quietly(agent, {"soon": 1}, expires_at=timezone.now() + timedelta(seconds=100))
        quietly(agent, {"over": 1})
        rows("UPDATE agents.state SET created_at = now() - interval '2 h', expires_at = now() - interval '1 h'"
             " WHERE state_key = 'over'")  # fmt: skip
        empty_outbox()
        assert hydrate_agent(session, agent.pk).filled.rows == 1
        assert 90 < entry(agent, f"{agent.pk}.soon").seconds_left() <= 100
        assert look("AGENT_STATE", f"{agent.pk}.over") is None

    def test_more_rows_than_a_page(self, agent, session):
        rows("INSERT INTO agents.state (agent_id, state_key, state_value)"
             " SELECT %s, 'n' || n, to_jsonb(n) FROM generate_series(1, 2300) n", agent.pk)  # fmt: skip
        empty_outbox()
        assert hydrate_agent(session, agent.pk).filled.stored == 2_300
        assert hydrate_agent(session, agent.pk).filled.kept == 2_300
        assert value("AGENT_STATE", f"{agent.pk}.n2300") == 2_300

    def test_two_at_once_cannot_both_and_a_dead_one_is_taken_over(self, agent, session):
        Hydration.objects.create(agent=agent, phase=Phase.HYDRATING)
        with pytest.raises(Refused, match="being hydrated"):
            hydrate_agent(session, agent.pk)
        Hydration.objects.update(moved_at=timezone.now() - hydration.LEASE * 2)
        hydrate_agent(session, agent.pk)
        assert phase(agent) == Phase.ACTIVE

    def test_a_backup_or_an_outage_leaves_it_cold_with_the_error(self, agent, session):
        quietly(agent, {"a": 1})
        with open_session([f"SELECT pg_advisory_lock({FENCE})"]), pytest.raises(Refused, match="backup"):
            hydrate_agent(session, agent.pk)
        assert (phase(agent), "backup" in Hydration.objects.get().error) == (Phase.COLD, True)
        connection.call(lambda client: client.jetstream.delete_stream("KV_AGENT_STATE"))
        with pytest.raises(Unreachable):
            hydrate_agent(session, agent.pk)


class TestPhases:
    def test_from_cold_to_cold(self, agent, session):
        quietly(agent, {"a": 1})
        rows("UPDATE agents.registry SET status = 'active', liveness = 'alive'")
        assert vars(sweep(session)) == {"expired": 0, "hydrated": 1, "released": 0, "failed": 0}
        assert phase(agent) == Phase.ACTIVE
        assert sweep(session).hydrated == 0
        write("AGENT_STATE", f"{agent.pk}.a", "last words")
        rows("UPDATE agents.registry SET status = 'terminated'")
        assert sweep(session).released == 0
        assert phase(agent) == Phase.FLUSHING
        flush(session)
        assert sweep(session).released == 1
        assert (phase(agent), rows("SELECT state_value FROM agents.state")) == (
            Phase.COLD,
            [('"last words"',)],
        )

    def test_forgotten_by_kv_is_expired_and_hydrated_again_when_the_agent_lives(self, agent, session):
        quietly(agent, {"a": 1})
        hydrate_agent(session, agent.pk)
        Hydration.objects.update(moved_at=timezone.now() - timedelta(minutes=31))
        assert sweep(session).expired == 0
        empty_kv()
        assert sweep(session).expired == 1
        assert phase(agent) == Phase.EXPIRED
        rows("UPDATE agents.registry SET status = 'active', liveness = 'alive'")
        assert jobs.sweep_hydration_job()["hydrated"] == 1

    def test_silent_and_stateless_agents_are_not_hydrated(self, agent, session):
        rows("UPDATE agents.registry SET status = 'active', liveness = 'alive'")
        assert sweep(session).hydrated == 0
        quietly(agent, {"a": 1})
        rows("UPDATE agents.registry SET liveness = 'lost'")
        assert sweep(session).hydrated == 0

    def test_releasing_waits_for_what_the_agent_wrote(self, agent, session):
        hydrate_agent(session, agent.pk)
        write("AGENT_STATE", f"{agent.pk}.a", 1)
        assert release_agent(agent.pk, timeout_seconds=0.1) is False
        flush(session)
        assert release_agent(agent.pk, timeout_seconds=5) is True
        assert phase(agent) == Phase.COLD


class TestWholeBucket:
    def test_an_emptied_nats_is_filled_from_postgresql(self, agent, session):
        write_state(agent.pk, {"a": 1, "b": 2})
        rows("UPDATE agents.registry SET epoch = 4")
        relay(session)
        for bucket in ("AGENT_STATE", "AGENT_CONFIG"):
            connection.call(lambda client, name=bucket: client.jetstream.purge_stream(f"KV_{name}"))
        plan = run("rebuild", "--dry-run")
        assert {step["object"] for step in plan["steps"]} == {
            "AGENT_STATE",
            "SESSION_DATA",
            "AGENT_CONFIG",
            "TASK_STATE",
        }
        assert value("AGENT_STATE", f"{agent.pk}.a") is None
        done = {item["bucket"]: item for item in run("rebuild")["items"]}
        assert (done["AGENT_STATE"]["stored"], done["AGENT_CONFIG"]["stored"]) == (2, 1)
        assert value("AGENT_STATE", fence_key(agent.pk)) == {"epoch": 4}
        assert value("AGENT_CONFIG", str(agent.pk))["agent_name"] == "reader-1"
        assert run("reconcile", "--dry-run")["ok"]
        assert run("rebuild", "AGENT_STATE")["counts"]["kept"] == 2

    def test_a_bucket_that_is_not_made_from_postgresql_is_refused(self, agent):
        for name in ("QUERY_CACHE", "NOTHING"):
            with pytest.raises(CommandError, match="not made from PostgreSQL"):
                run("rebuild", name)

    def test_the_command_hydrates_those_named_or_all_that_work(self, agent):
        quietly(agent, {"a": 1})
        assert run("hydrate", agent.pk, "--dry-run")["steps"][0]["why"] == "1 live keys in PostgreSQL"
        assert run("hydrate", agent.pk)["counts"] == {
            "agents": 1,
            "rows": 1,
            "stored": 1,
            "kept": 0,
            "pending": 0,
        }
        assert run("hydrate", "--all")["counts"]["kept"] == 1
        for wrong in ((), (agent.pk, "--all")):
            with pytest.raises(CommandError):
                run("hydrate", *wrong)
        Hydration.objects.update(phase=Phase.HYDRATING, moved_at=timezone.now())
        with pytest.raises(SystemExit):
            run("hydrate", agent.pk)


class TestEpochsInKv:
    def test_a_new_epoch_shuts_the_old_incarnation_out_of_kv(self, agent, session):
        old = StateApi(agent.pk, epoch=1)
        old.put("a", 1)
        rows("UPDATE agents.registry SET epoch = 2 WHERE agent_id = %s", agent.pk)
        relay(session)
        with pytest.raises(Refused, match="successor"):
            old.put("a", 2)
        StateApi(agent.pk, epoch=2).put("a", 3)
        assert value("AGENT_STATE", f"{agent.pk}.a") == 3

    def test_an_epoch_never_expires_and_is_no_state(self, agent, session):
        rows("UPDATE agents.registry SET epoch = 2")
        relay(session)
        assert entry(agent, fence_key(agent.pk)).headers["Nats-TTL"] == "never"
        assert flush(session).dead == 0
        assert StateApi(agent.pk).read_many() == {}
        assert rows("SELECT count(*) FROM bridge.dead_letters") == [(0,)]

    def test_reconcile_puts_epochs_right(self, agent, session):
        other = Agent.objects.create(agent_type="reader", agent_name="reader-2")
        rows("UPDATE agents.registry SET epoch = 3 WHERE agent_id = %s", agent.pk)
        empty_outbox()
        put("AGENT_STATE", fence_key(other.pk), {"epoch": 9})
        found = run_reconcile(session, repair=False)
        assert (found.wrong, found.repaired, found.left) == (2, 0, 2)
        assert run_reconcile(session, repair=True).repaired == 2
        assert value("AGENT_STATE", fence_key(agent.pk)) == {"epoch": 3}
        assert value("AGENT_STATE", fence_key(other.pk)) is None
        assert reconcile.reconcile_fences(session, repair=True) == []


def run_reconcile(session, repair):
    (report,) = reconcile.reconcile_fences(session, repair)
    return report


class TestExpiryOnItsWay:
    def test_the_relay_passes_the_time_to_live_on(self, agent, session):
        write_state(agent.pk, {"a": "old"})
        relay(session)
        write_state(agent.pk, {"a": "new"}, expires_at=timezone.now() + timedelta(seconds=3))
        relay(session)
        assert value("AGENT_STATE", f"{agent.pk}.a") == "new"
        assert 0 < entry(agent, f"{agent.pk}.a").seconds_left() <= 3
        wait_until(lambda: look("AGENT_STATE", f"{agent.pk}.a") is None)  # and "old" does not come back

    def test_what_is_over_when_it_is_relayed_is_a_deletion(self, agent, session):
        with transaction.atomic():
            write_state(agent.pk, {"a": 1}, expires_at=timezone.now() + timedelta(hours=1))
            rows("UPDATE bridge.outbox SET expires_at = now() - interval '1 s' WHERE target = 'AGENT_STATE'")
        relay(session)
        assert look("AGENT_STATE", f"{agent.pk}.a").is_deleted

    def test_reconcile_takes_what_is_over_for_expired_and_repairs_with_the_rest_of_its_time(
        self, agent, session
    ):
        quietly(agent, {"over": 1, "left": 2}, expires_at=timezone.now() + timedelta(seconds=100))
        rows("SET session_replication_role = replica")
        rows("UPDATE agents.state SET created_at = now() - interval '2 h', expires_at = now() - interval '1 s'"
             " WHERE state_key = 'over'")  # fmt: skip
        rows("SET session_replication_role = origin")
        empty_outbox()
        item = reconcile.reconcile(session, repair=True)[0].as_item()
        assert (item["expired"], item["missing"], item["repaired"]) == (1, 1, 1)
        assert 90 < entry(agent, f"{agent.pk}.left").seconds_left() <= 100

    def test_a_time_to_live_set_by_an_agent_reaches_postgresql(self, agent, session):
        StateApi(agent.pk).put("a", 1, ttl_seconds=100)
        wait_until(lambda: flush(session).applied)
        (left,) = rows("SELECT extract(epoch FROM expires_at - now())::float8 FROM agents.state")[0]
        assert 80 < left <= 101


@pytest.fixture
def operator(committed, client):
    """A superuser who is logged in, seen by other sessions too."""
    user = User.objects.create_superuser("hydrator")
    client.force_login(user)
    yield client
    user.delete()


def test_an_operator_hydrates_in_the_admin_and_says_why(agent, operator):
    quietly(agent, {"a": 1})
    Hydration.objects.create(agent=agent, phase=Phase.EXPIRED)
    url = reverse("admin:bridge_hydration_changelist")
    assert operator.get(url).status_code == 200
    form = {"action": "hydrate", "_selected_action": [str(agent.pk)]}
    assert "reason" in operator.post(url, form).content.decode()
    assert value("AGENT_STATE", f"{agent.pk}.a") is None
    operator.post(url, form | {"reason": "slow start", "confirmed": "yes"})
    assert value("AGENT_STATE", f"{agent.pk}.a") == 1
    assert AuditEntry.objects.get(action="bridge.hydrate").reason == "slow start"
