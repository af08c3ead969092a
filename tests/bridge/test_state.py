"""The state API: the same answers from the synchronous and the asynchronous one, with NATS and without."""

import asyncio
import json
import threading
from io import StringIO

import pytest
from asgiref.sync import sync_to_async
from django.core.management import CommandError, call_command
from django.db import connections
from django.utils import timezone

from agents.errors import StaleEpoch, UnknownAgent
from agents.models import Agent
from agents.models import AgentState as Row
from agents.state import MAX_VALUE_BYTES, ValueTooLarge, read_state, write_state
from bridge import connection, loop_client, state
from bridge.keys import fence_key
from bridge.relay import Memory, relay_batch
from bridge.state import AgentState
from bridge.state_async import AsyncAgentState
from bridge.state_values import Version, VersionConflict
from operators.models import AuditEntry
from pg.errors import Refused
from tests.bridge.conftest import delete, empty_outbox, look, put, rows, value, wait_until

pytestmark = pytest.mark.usefixtures("committed")


class InThread:
    """The asynchronous API as the tests call it: a loop of its own in another thread."""

    def __init__(self, agent_id, epoch=None):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._state = AsyncAgentState(agent_id, epoch)

    def __getattr__(self, name):
        def call(*args, **options):
            work = getattr(self._state, name)(*args, **options)
            return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

        return call

    def watch(self, **options):
        async def collect():
            return [change async for change in self._state.watch(**options)]

        return asyncio.run_coroutine_threadsafe(collect(), self._loop).result(30)

    def close(self):
        async def end():
            await loop_client.close_loop_client()
            await sync_to_async(connections.close_all)()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()


@pytest.fixture
def patient(monkeypatch):
    """A loaded test machine may need longer."""
    from bridge import state_async

    monkeypatch.setattr(state, "WAIT_SECONDS", 20)
    monkeypatch.setattr(state_async, "WAIT_SECONDS", 20)
    state.breaker.reset()
    loop_client.breaker.reset()


@pytest.fixture(params=["sync", "async"])
def make(request, patient):
    """Make an API for an agent, with or without an epoch."""
    made = []

    def make(agent, epoch=None):
        made.append((AgentState if request.param == "sync" else InThread)(agent.pk, epoch))
        return made[-1]

    yield make
    for each in made:
        if isinstance(each, InThread):
            each.close()


@pytest.fixture(params=["with NATS", "NATS away"])
def either(request, settings):
    """Everything that holds both ways."""
    if request.param == "with NATS":
        request.getfixturevalue("jetstream")
    else:
        request.getfixturevalue("away")


@pytest.fixture
def away(settings, monkeypatch, patient):
    connection.close()
    settings.NATS_URL = "nats://127.0.0.1:9"
    monkeypatch.setattr(connection, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(loop_client, "FIRST_SECONDS", 0.1)
    yield
    connection.close()
    state.breaker.reset()
    loop_client.breaker.reset()


def relay(session):
    while relay_batch(session, Memory()).read:
        pass


@pytest.mark.usefixtures("either")
class TestBothWays:
    def test_what_was_put_is_read(self, agent, make):
        api = make(agent)
        version = api.put("a", {"x": [1, None, "ä"]})
        found = api.read("a")
        assert (found.key, found.value, found.version, found.ttl_seconds) == (
            "a",
            {"x": [1, None, "ä"]},
            version,
            None,
        )
        assert (api.get("a"), api.get("b"), api.get("b", 5), api.read("b")) == (found.value, None, 5, None)

    def test_every_json_value_comes_back(self, agent, make):
        api = make(agent)
        for stored in (None, False, 0, "", [], 1.5, "text"):
            api.put("a", stored)
            assert api.read("a").value == stored
            assert type(api.get("a")) is type(stored)

    def test_every_state_key_works(self, agent, make):
        api = make(agent)
        for key in ("a", "memory.short", "a b", "ключ", "a..b", "x" * 255, "=41", "*"):
            api.put(key, 1)
            assert api.get(key) == 1
            api.delete(key)
            assert api.read(key) is None

    def test_many_at_once(self, agent, make):
        api = make(agent)
        versions = api.put_many({"a": 1, "b": 2, "c d": 3})
        api.put("e", 5)
        api.delete("b")
        found = api.read_many(["a", "b", "c d", "never"])
        assert {key: (v.value, v.version) for key, v in found.items()} == {
            "a": (1, versions["a"]),
            "c d": (3, versions["c d"]),
        }
        assert {key: v.value for key, v in api.read_many().items()} == {"a": 1, "c d": 3, "e": 5}
        assert (api.read_many([]), api.put_many({})) == ({}, {})

    def test_compare_and_set_wins_once_per_version(self, agent, make):
        api = make(agent)
        first = api.put("a", 1)
        second = api.compare_and_set("a", 2, first)
        with pytest.raises(VersionConflict):
            api.compare_and_set("a", 99, first)
        assert api.compare_and_set("a", 3, second) == api.read("a").version
        assert api.get("a") == 3

    def test_absent_creates_only_where_nothing_is(self, agent, make):
        api = make(agent)
        api.compare_and_set("a", 1, "absent")
        with pytest.raises(VersionConflict):
            api.compare_and_set("a", 2, "absent")
        api.delete("a")
        api.compare_and_set("a", 3, "absent")
        assert api.get("a") == 3

    def test_a_deleted_key_is_no_version_of_anything(self, agent, make):
        api = make(agent)
        version = api.put("a", 1)
        api.delete("a")
        with pytest.raises(VersionConflict):
            api.compare_and_set("a", 2, version)
        assert api.read("a") is None

    def test_delete_with_a_version_spares_what_changed(self, agent, make):
        api = make(agent)
        first = api.put("a", 1)
        second = api.put("a", 2)
        with pytest.raises(VersionConflict):
            api.delete("a", version=first)
        assert api.get("a") == 2
        api.delete("a", version=second)
        assert api.read("a") is None
        api.delete("a")

    def test_a_time_to_live_is_told(self, agent, make):
        api = make(agent)
        api.put("a", 1, ttl_seconds=100)
        assert 50 < api.read("a").ttl_seconds <= 100
        api.put("a", 2)
        assert api.read("a").ttl_seconds is None

    def test_a_value_that_expires_is_gone_and_the_older_one_with_it(self, agent, make):
        api = make(agent)
        api.put("a", "old")
        api.put("a", "new", ttl_seconds=1)
        wait_until(lambda: api.read("a") is None)
        assert "a" not in api.read_many()

    def test_a_time_to_live_must_be_whole_seconds(self, agent, make):
        for ttl in (0, -1, 1.5, True, "1"):
            with pytest.raises(Refused, match="ttl_seconds"):
                make(agent).put("a", 1, ttl_seconds=ttl)

    def test_two_megabytes_less_room_for_headers_are_the_limit(self, agent, make):
        api = make(agent)
        fits = "x" * (MAX_VALUE_BYTES - 2)
        api.put("a", fits)
        assert api.get("a") == fits
        with pytest.raises(ValueTooLarge, match="limit is"):
            api.put("a", fits + "x")
        assert api.get("a") == fits

    def test_what_postgresql_could_not_keep_is_refused_at_once(self, agent, make):
        api = make(agent)
        for key, bad, text in (
            ("", 1, "1 to 255"),
            ("x" * 256, 1, "1 to 255"),
            ("a", float("nan"), "not JSON"),
            ("a", {1, 2}, "not JSON"),
            ("a", "\ud800", "not JSON"),
            ("a", {"x\x00": 1}, "U\\+0000"),
        ):
            with pytest.raises(Refused, match=text):
                api.put(key, bad)

    def test_a_backslash_before_u0000_is_no_nul(self, agent, make):
        api = make(agent)
        api.put("a", "\\u0000")
        assert api.get("a") == "\\u0000"

    def test_an_old_epoch_is_refused(self, agent, make):
        old, new = make(agent, epoch=1), make(agent, epoch=2)
        old.put("a", 1)
        take_over(agent)
        new.put("a", 2)
        for write in (
            lambda: old.put("a", 3),
            lambda: old.put_many({"a": 3, "b": 3}),
            lambda: old.put("fresh", 3),
            lambda: old.delete("a"),
            lambda: old.compare_and_set("a", 3, new.read("a").version),
            lambda: old.compare_and_set("fresh", 3, "absent"),
        ):
            with pytest.raises(StaleEpoch):
                write()
        assert {key: v.value for key, v in new.read_many().items()} == {"a": 2}
        new.compare_and_set("a", 4, new.read("a").version)
        assert old.get("a") == 4  # reading harms nobody

    def test_a_version_that_never_was_is_refused(self, agent, make):
        for text in ("", "1", "kv-1", "pg-", "kv-1-x"):
            with pytest.raises(Refused, match="none of ours"):
                make(agent).compare_and_set("a", 1, text)


def take_over(agent):
    """As a roll-back or a successor does, and as the bridge then tells KV (at once, where there is NATS)."""
    rows("UPDATE agents.registry SET epoch = epoch + 1 WHERE agent_id = %s", agent.pk)
    epoch = Agent.objects.get(pk=agent.pk).epoch
    if connection.link().is_connected():
        put("AGENT_STATE", fence_key(agent.pk), {"epoch": epoch})


@pytest.mark.usefixtures("jetstream")
class TestWithNats:
    def test_a_put_goes_to_kv_alone(self, agent, make):
        make(agent).put("a b", 1)
        assert value("AGENT_STATE", f"{agent.pk}.a=20b") == 1
        assert read_state(agent.pk) == {}

    def test_kv_is_read_first(self, agent, make):
        write_state(agent.pk, {"a": "row"})
        put("AGENT_STATE", f"{agent.pk}.a", "kv")
        assert make(agent).get("a") == "kv"

    def test_a_miss_is_refilled_from_postgresql_and_is_no_agents_write(self, agent, make):
        rows("SET session_replication_role = replica")
        write_state(agent.pk, {"a": {"x": 1}, "b": 2, "c": 3})
        rows("SET session_replication_role = origin")
        api = make(agent)
        connection.call(lambda client: client.jetstream.purge_stream("KV_AGENT_STATE"))
        assert api.get("a") == {"x": 1}
        last = look("AGENT_STATE", f"{agent.pk}.a")
        assert (value("AGENT_STATE", f"{agent.pk}.a"), last.is_foreign) == ({"x": 1}, False)
        assert value("AGENT_STATE", f"{agent.pk}.b") is None
        assert {key: v.value for key, v in api.read_many().items()} == {"a": {"x": 1}, "b": 2, "c": 3}
        assert value("AGENT_STATE", f"{agent.pk}.c") == 3

    def test_a_refill_never_replaces_what_came_meanwhile(self, agent, make, monkeypatch):
        rows("SET session_replication_role = replica")
        write_state(agent.pk, {"a": "row"})
        rows("SET session_replication_role = origin")
        connection.call(lambda client: client.jetstream.purge_stream("KV_AGENT_STATE"))
        from bridge import state_pg

        real = state_pg.read_rows

        def overtaken(*args, **options):
            found = real(*args, **options)
            put("AGENT_STATE", f"{agent.pk}.a", "agent's")
            return found

        monkeypatch.setattr(state_pg, "read_rows", overtaken)
        assert make(agent).get("a") == "agent's"
        assert value("AGENT_STATE", f"{agent.pk}.a") == "agent's"

    def test_what_an_agent_deleted_is_not_brought_back_from_postgresql(self, agent, make):
        write_state(agent.pk, {"a": 1, "b": 2})
        delete("AGENT_STATE", f"{agent.pk}.a")
        api = make(agent)
        assert api.read("a") is None
        assert {key: v.value for key, v in api.read_many().items()} == {"b": 2}

    def test_a_refill_keeps_the_rest_of_the_time_to_live(self, agent, make):
        rows("SET session_replication_role = replica")
        write_state(agent.pk, {"a": 1}, expires_at=timezone.now() + timezone.timedelta(seconds=50))
        rows("SET session_replication_role = origin")
        assert 20 < make(agent).read("a").ttl_seconds <= 50

    def test_absent_means_absent_in_both_stores(self, agent, make):
        rows("SET session_replication_role = replica")
        write_state(agent.pk, {"a": 1})
        rows("SET session_replication_role = origin")
        with pytest.raises(VersionConflict):
            make(agent).compare_and_set("a", 2, "absent")

    def test_more_keys_than_one_answer_holds(self, agent, make):
        api = make(agent)
        values = {f"n{n}": n for n in range(1_500)}
        api.put_many(values)
        assert {key: v.value for key, v in api.read_many().items()} == values
        assert {key: v.value for key, v in api.read_many(list(values)).items()} == values

    def test_what_is_not_json_is_told(self, agent, make):
        connection.call(lambda c: c.jetstream.publish(f"$KV.AGENT_STATE.{agent.pk}.a", b"{not json"))
        api = make(agent)
        with pytest.raises(Refused, match="not JSON"):
            api.get("a")
        api.put("a", 1)
        assert api.get("a") == 1

    def test_a_version_of_a_bucket_that_was_made_anew_fits_nothing(self, agent, make):
        revision = Version.parse(make(agent).put("a", 1)).revision
        with pytest.raises(VersionConflict):
            make(agent).compare_and_set("a", 2, str(Version(1, revision)))

    def test_other_keys_of_the_agent_do_not_disturb_a_fenced_compare_and_set(self, agent, make):
        api, other = make(agent, epoch=1), make(agent)
        version = api.put("a", 1)
        other.put("b", 2)
        assert api.compare_and_set("a", 3, version)

    def test_many_that_count_with_compare_and_set_lose_nothing(self, agent, patient):
        AgentState(agent.pk, 1).put("n", 0)

        def count():
            api, left = AgentState(agent.pk, 1), 10
            while left:
                found = api.read("n")
                try:
                    api.compare_and_set("n", found.value + 1, found.version)
                    left -= 1
                except VersionConflict:
                    pass

        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert AgentState(agent.pk).get("n") == 40

    def test_a_watch_gives_what_is_there_and_every_change(self, agent, make):
        api = make(agent)
        api.put_many({"a": 1, "b": 2})
        api.delete("b")
        other = Agent.objects.create(agent_type="reader", agent_name="reader-2")
        make(other).put("a", "not ours")
        put("AGENT_STATE", fence_key(agent.pk), {"epoch": 1})
        timer = threading.Timer(
            0.3, lambda: (put("AGENT_STATE", f"{agent.pk}.c", 3), delete("AGENT_STATE", f"{agent.pk}.a"))
        )
        timer.start()
        seen = [(c.key, c.value, c.is_deleted) for c in api.watch(wait_seconds=2)]
        timer.join()
        assert seen == [("a", 1, False), ("c", 3, False), ("a", None, True)]

    def test_a_watch_goes_on_after_the_bucket_was_made_anew(self, agent, patient):
        api = AgentState(agent.pk)
        api.put("a", 1)
        changes = api.watch()
        assert next(changes).value == 1
        connection.call(lambda client: client.jetstream.delete_stream("KV_AGENT_STATE"))
        bucket = api._flow._keys.bucket
        connection.call(lambda client: client.jetstream.add_stream(bucket.config(1)))
        api.put("a", 2)
        assert next(changes).value == 2
        changes.close()


class TestCommand:
    def run(self, *arguments):
        out = StringIO()
        call_command("bridge", "state", *[str(each) for each in arguments], "--json", stdout=out)
        return json.loads(out.getvalue())

    def test_an_operator_reads_puts_and_deletes(self, agent, jetstream):
        made = self.run(agent.pk, "a", "--put", '{"x": 1}', "--reason", "a try")["items"][0]
        assert (made["key"], made["value"]) == ("a", {"x": 1})
        version = self.run(agent.pk, "a", "--put", "2", "--version", made["version"])["items"][0]["version"]
        with pytest.raises(CommandError) as caught:
            self.run(agent.pk, "a", "--put", "3", "--version", made["version"])
        assert caught.value.returncode == 2
        assert self.run(agent.pk)["items"] == [
            {"key": "a", "version": version, "ttl_seconds": None, "value": 2}
        ]
        assert self.run(agent.pk, "a", "--delete")["items"] == []
        entry = AuditEntry.objects.get(action="bridge.put_state", reason="a try")
        assert entry.objects_touched == [str(agent.pk)]

    def test_an_operator_watches(self, agent, jetstream, capsys):
        put("AGENT_STATE", f"{agent.pk}.a", 1)
        put("AGENT_STATE", f"{agent.pk}.b", 2)
        assert self.run(agent.pk, "a", "--watch", "--seconds", 1)["counts"] == {"changes": 1}
        assert json.loads(capsys.readouterr().out)["value"] == 1

    def test_what_makes_no_sense_is_refused(self, agent, jetstream):
        for bad in (("--put", "1"), ("a", "b", "--put", "1"), ("--delete",), ("a", "--put", "{x")):
            with pytest.raises((CommandError, SystemExit)):
                self.run(agent.pk, *bad)
        with pytest.raises(CommandError):
            self.run("00000000-0000-7000-8000-000000000001")


class TestOutage:
    """NATS goes away and comes back."""

    def test_postgresql_serves_and_the_bridge_catches_up(self, agent, own_jetstream, patient, session):
        api = AgentState(agent.pk)
        write_state(agent.pk, {"a": 1})
        relay(session)
        own_jetstream.kill()
        wait_until(lambda: not connection.link().is_connected())
        assert api.get("a") == 1
        version = api.put("a", 2)
        assert version.startswith("pg-")
        version = api.compare_and_set("a", 3, version)
        api.put("b", "new")
        own_jetstream.start()
        wait_until(connection.link().is_connected)
        relay(session)
        state.breaker.reset()
        assert {key: v.value for key, v in api.read_many().items()} == {"a": 3, "b": "new"}
        assert api.read("a").version.startswith("kv-")
        api.compare_and_set("a", 4, version)  # read from PostgreSQL, and still what it was
        assert read_state(agent.pk)["a"] == 4
        with pytest.raises(VersionConflict):
            api.compare_and_set("a", 5, version)

    def test_a_version_of_postgresql_spares_what_an_agent_wrote_since(self, agent, jetstream, patient):
        write_state(agent.pk, {"a": 1})
        version = str(Version(row=Row.objects.get().version))
        put("AGENT_STATE", f"{agent.pk}.a", "agent's")
        with pytest.raises(VersionConflict):
            AgentState(agent.pk).compare_and_set("a", 2, version)

    def test_a_revision_of_kv_fits_the_row_that_was_flushed_from_it(self, agent, away):
        rows("SET session_replication_role = replica")
        write_state(agent.pk, {"a": 1})
        rows("UPDATE agents.state SET kv_epoch = 7, kv_revision = 70")
        rows("SET session_replication_role = origin")
        empty_outbox()
        api = AgentState(agent.pk)
        with pytest.raises(VersionConflict):
            api.compare_and_set("a", 2, str(Version(7, 69)))
        with pytest.raises(VersionConflict):
            api.compare_and_set("a", 2, str(Version(8, 70)))
        api.compare_and_set("a", 2, str(Version(7, 70)))
        with pytest.raises(VersionConflict):  # the row says 70 still, but was changed since
            api.compare_and_set("a", 3, str(Version(7, 70)))

    def test_an_unknown_agent_is_refused(self, away):
        with pytest.raises(UnknownAgent):
            AgentState("00000000-0000-7000-8000-000000000001").put("a", 1)
