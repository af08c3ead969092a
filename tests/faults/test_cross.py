"""Both systems at one moment: from nothing to a disaster and back, and everything that may happen on the way."""

import asyncio
import json
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from bridge import connection
from bridge.connection import Link
from bridge.fence import shared_fence
from bridge.relay import Memory, relay_batch
from bridge.session import open_session
from cockpit.servers import Nats, Postgres, Running, Valkey
from pg.errors import Unreachable
from recovery import catalogue, jetstream
from recovery.cross import back_up_cross
from recovery.cross_drill import plan_cross, run_cross_drill
from recovery.cross_manifest import read_stored
from recovery.errors import Busy, Damaged, SnapshotFailed
from recovery.models import Backup
from recovery.recover import recover
from recovery.restore_jetstream import plan_jetstream, restore_jetstream, restoring_session
from recovery.server import exclusive, home_server
from tests.bridge.flushing import flush
from tests.faults.installation import Installation
from tests.faults.test_recovery import DRIVER
from tests.recovery.conftest import eventually
from tests.recovery.world import ROOT, shared_world, world

__all__ = ["shared_world", "world"]


# -- the story ----------------------------------------------------------------------------------------------
class Agents:
    """Agents that count their own state up, all the time. `acknowledged`: per agent, (value, revision, when);
    those that are `resting` wait."""

    def __init__(self, nats_url, ids):
        self.ids, self.link = ids, Link(nats_url)
        self.acknowledged = {agent: [] for agent in ids}
        self.resting = set()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while not self._is_over.is_set():
            with suppress(Unreachable):
                self.link.call(self._round, 60)
                continue
            time.sleep(0.1)

    async def _round(self, client):
        awake = [agent for agent in self.ids if agent not in self.resting]
        await asyncio.gather(*(self._count_up(client, agent) for agent in awake))

    async def _count_up(self, client, agent):
        known = self.acknowledged[agent]
        value = known[-1][0] + 1 if known else 1
        try:
            answer = await client.jetstream.publish(
                f"$KV.AGENT_STATE.{agent}.n", str(value).encode(), timeout=5
            )
        except Exception:
            await asyncio.sleep(0.05)
        else:
            known.append((value, answer.seq, time.time()))

    @contextmanager
    def writing(self):
        self._thread.start()
        try:
            yield self
        finally:
            self._is_over.set()
            self._thread.join(60)
            self.link.close()

    def written(self):
        return sum(len(found) for found in self.acknowledged.values())


class Story:
    """An installation with a WAL archive, from zero."""

    def __init__(self, home, stack):
        self.home, self.root = home, home / "backups"
        self.servers = {
            "postgres": Running(Postgres(home, archive=self.root)), "nats": Running(Nats(home)),
            "valkey": Running(Valkey(home)),
        }  # fmt: skip
        for running in self.servers.values():
            stack.enter_context(running)
        self.made = Installation(home, self.servers)
        self.made.environ |= {"MISTERSMITH_BACKUP_DIR": str(self.root), "MISTERSMITH_HOME": str(home)}
        stack.callback(self.made.end)

    def run(self, *arguments):
        """Run a command; return exit code and answer."""
        done = self.made.manage(*arguments, "--json")
        assert done.returncode in (0, 1), f"{arguments}: {done.stderr}"
        return done.returncode, json.loads(done.stdout)

    def backup(self, *arguments):
        code, answer = self.run("backup", *arguments)
        assert code == 0, answer
        return answer

    def write_rows(self, number):
        for _ in range(number):
            self.made.ask("INSERT INTO numbered DEFAULT VALUES")

    def rows(self):
        return self.made.ask("SELECT count(*) FROM numbered")[0][0]

    def state(self):
        found = self.made.ask("SELECT agent_id, state_value FROM agents.state WHERE state_key = 'n'")
        return dict(found)


@pytest.mark.deep
@pytest.mark.parametrize("number", [200])
def test_from_nothing_to_a_disaster_and_back_to_the_point(make_home, faults, number, request):
    """Load, base, writes, incremental, a named point of both systems, more writes, a disaster; back on both sides."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        home = make_home()
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        tell_the_story(Story(home, stack), faults, number)


def tell_the_story(story, faults, number):
    made = story.made
    made.begin()
    made.ask("CREATE TABLE numbered (n bigserial PRIMARY KEY, at timestamptz DEFAULT clock_timestamp())")
    found = made.ask(
        "INSERT INTO agents.registry (agent_type, agent_name) SELECT 'sim', 'agent ' || n"
        " FROM generate_series(1, %s) n RETURNING agent_id",
        number,
    )
    agents = Agents(made.environ["NATS_URL"], [agent for (agent,) in found])
    with agents.writing():
        made.enqueue(300)
        story.backup("base")
        story.write_rows(50)
        story.backup("incremental")
        story.write_rows(50)
        eventually(lambda: agents.written() > 5 * number, 120)
        rows = story.rows()
        cross = story.backup("cross")["items"][0]["backup_id"]
        story.write_rows(50)
        more = agents.written() + 2 * number
        eventually(lambda: agents.written() > more, 120)

        body = json.loads(next((story.root / "cross").glob(f"*-{cross}/manifest.json")).read_text())
        agents.resting = set(agents.ids[::2])  # of the others the bridge may bring new writes before we look
        disaster = time.time()
        faults.kill("postgres", story.servers["postgres"])
        faults.kill("nats", story.servers["nats"])
        shutil.rmtree(Path(story.servers["postgres"].server.data).resolve())
        shutil.rmtree(story.servers["nats"].server.directory / "jetstream")
        faults.happened("data directory and JetStream's store deleted")

        data = story.servers["postgres"].server.data
        data.unlink(missing_ok=True)
        back = story.backup("restore", cross, f"--target-directory={data}")
        story.servers["postgres"].start()
        story.servers["nats"].start()
        before = agents.written()
        answer = story.backup("restore-jetstream", "--reason", "the disk is gone")
        restored = story.state()
        assert story.rows() == rows, "the rows that were there"
        agents.resting = set()
        eventually(lambda: agents.written() > before + number, 120)

    place = next(entry for entry in body["systems"]["nats"]["kv_buckets"] if entry["name"] == "AGENT_STATE")
    began = begin_of_fence(body)
    missing = lost_future = not_exact = puts = 0
    for number_of, (agent, known) in enumerate(agents.acknowledged.items()):
        earlier = [value for value, _, at in known if at < began]
        later = {
            value for value, revision, at in known if at < disaster and revision > place["last_revision"]
        }
        exact = max(
            value for value, revision, at in known if at < disaster and revision <= place["last_revision"]
        )
        puts += len(earlier)
        missing += restored[agent] < max(earlier)
        lost_future += restored[agent] in later
        not_exact += number_of % 2 == 0 and restored[agent] != exact
    faults.did(agents=number, puts_before_the_fence=puts, rows=rows, commands=len(back["items"]))
    # how much was replayed is chance, and none where the flusher had just ended: the tests of drills make it certain
    faults.did(keys_compared=answer["counts"]["compared"], writes_after=agents.written() - before)
    faults.wrong(
        acknowledged_puts_missing=missing,
        of_the_lost_future=lost_future,
        not_of_the_moment=not_exact,
        problems=answer["counts"]["problems"],
    )
    eventually(
        lambda: (
            made.differences().get("left", 1) == 0
            and made.ask("SELECT count(*) FROM bridge.outbox")[0][0] == 0
        ),
        120,
    )
    found = made.differences()
    faults.wrong(copies_missing=found["missing"], copies_stale=found["stale"], copies_extra=found["extra"])
    _code, doctor = eventually(lambda: green(story), 120)
    faults.did(checks=len(doctor["items"]))


def begin_of_fence(body):
    from datetime import datetime

    at = datetime.fromisoformat(body["fence"]["at"])
    return (at - timedelta(milliseconds=body["fence"]["fenced_ms"] + body["fence"]["waited_ms"])).timestamp()


def green(story):
    """Doctor finds nothing wrong; None while it does."""
    done = story.made.manage("doctor", "--json")
    answer = json.loads(done.stdout or "{}")
    story.told = answer
    return (done.returncode, answer) if done.returncode == 0 else None


# -- killed at every step -----------------------------------------------------------------------------------
BACK_UP = "from recovery.cross import back_up_cross; back_up_cross()"
RESTORE = """
from pathlib import Path
from recovery.restore_jetstream import *
with restoring_session() as db:
    restore_jetstream(db, plan_jetstream(db), Path({place!r}))
"""


def run_and_die(world, module, name, when, act):
    argv = [sys.executable, "-c", DRIVER, module, name, when, act]
    return subprocess.run(
        argv, cwd=ROOT, env=world.environment(), capture_output=True, text=True, timeout=120
    )


def is_free():
    with suppress(Busy), exclusive(home_server()):
        return True
    return False


def leftovers(world):
    return [path.name for path in (world.root / "cross").glob(".*")]


@pytest.mark.deep
@pytest.mark.parametrize(
    ("module", "name", "when"),
    [
        ("recovery.moment", "mark_streams", "before"),
        ("recovery.moment", "mark_database", "before"),
        ("recovery.moment", "mark_database", "after"),
        ("recovery.cross", "take_growing", "before"),
        ("recovery.cross", "take_growing", "after"),
        ("recovery.cross", "prove_all", "after"),
        ("recovery.cross", "archive_moment", "after"),
        ("recovery.cross_manifest", "write", "after"),
        ("recovery.cross", "publish", "before"),
        ("recovery.cross", "publish", "after"),
    ],
)
def test_a_cross_system_backup_killed_at_any_step_costs_nothing_but_itself(world, faults, module, name, when):
    prepare(world)
    before = back_up_cross()
    done = run_and_die(world, module, name, when, BACK_UP)
    assert done.returncode == -9, done.stderr
    faults.happened(f"backup killed {when} {name}")
    eventually(is_free)
    eventually(fence_is_free)
    with open_session() as session:
        fenced = relay_batch(session, Memory()).is_fenced
    read_stored(before)  # raises when it is not what it was
    after = back_up_cross()
    read_stored(after)
    running = Backup.objects.filter(status="running").count()
    faults.did(backups=2)
    faults.wrong(still_fenced=int(fenced), still_running=running, left_behind=len(leftovers(world)))


def prepare(world):
    """Something in every store, and nothing of a former test in the way."""
    if not world.agents:
        world.make_agents(3)
        world.relay()
    world.put(world.agents[0], "k", int(time.time()))


def fence_is_free():
    with open_session() as session, shared_fence(session) as held:
        return held


@pytest.fixture
def lost(world, make_home):
    """PostgreSQL is restored to a cross-system backup, JetStream is empty."""
    prepare(world)
    world.put(world.agents[1], "unflushed", 7)
    backup = back_up_cross()
    place = world.home / f"lost-{world.restored}"
    place.mkdir(mode=0o711)
    recover(plan_cross(backup), place / "data")
    world.lose_nats()
    world.start_restored(place / "data")
    return world


@pytest.mark.deep
@pytest.mark.parametrize(
    ("name", "when"),
    [
        ("clear", "after"),
        ("put_streams_back", "before"),
        ("cut", "before"),
        ("put_streams_back", "after"),
        ("make_the_rest", "after"),
        ("replay_flushes", "after"),
        ("hand_to_relay", "after"),
        ("rebuild", "after"),
        ("skip_lost_ids", "after"),
        ("prove", "after"),
        ("release", "before"),
        ("release", "after"),
    ],
)
def test_a_restore_of_jetstream_killed_at_any_step_is_done_anew(lost, faults, tmp_path, name, when):
    module = "recovery.bringing_streams" if name == "cut" else "recovery.restore_jetstream"
    done = run_and_die(lost, module, name, when, RESTORE.format(place=str(tmp_path)))
    assert done.returncode == -9, done.stderr
    faults.happened(f"restore killed {when} {name}")
    is_over = (name, when) == ("release", "after")
    if not is_over:
        with restoring_session() as db:
            problems = restore_jetstream(db, plan_jetstream(db), tmp_path).problems
        faults.wrong(problems=len(problems))
    lost.relay()
    _code, answer, _said = lost.manage("bridge", "reconcile", "--dry-run")
    counts = answer["counts"]
    faults.did(keys_compared=counts["compared"])
    value = lost.stored(lost.agents[1]).get("unflushed")
    faults.wrong(
        missing=counts["missing"],
        stale=counts["stale"],
        extra=counts["extra"],
        unflushed_write_lost=int(value != 7),
    )


# -- NATS and damage ----------------------------------------------------------------------------------------
@pytest.mark.deep
@pytest.mark.ci
def test_nats_killed_during_a_snapshot_fails_the_backup_and_frees_the_bridge(world, faults, monkeypatch):
    prepare(world)
    before = back_up_cross()
    real = jetstream.receive

    async def receive(client, subscription, out, stream):
        if stream == "AGENT_STATE" and world.nats.is_alive():
            faults.kill("nats", world.nats)
        await real(client, subscription, out, stream)

    monkeypatch.setattr(jetstream, "receive", receive)
    monkeypatch.setattr(jetstream, "IDLE_SECONDS", 1)
    with pytest.raises((SnapshotFailed, Unreachable)):
        back_up_cross()
    monkeypatch.undo()
    failed = Backup.objects.filter(kind="cross_system").first()
    world.nats.start()
    world.use()
    eventually(lambda: connection.call(lambda c: c.jetstream.account_info()))
    read_stored(before)
    faults.did(backups=1)
    faults.wrong(
        called_finished=int(failed.status != "failed"), left_behind=len(leftovers(world)),
        still_fenced=int(not fence_is_free()),
    )  # fmt: skip
    back_up_cross()


@pytest.mark.deep
@pytest.mark.ci
def test_a_bit_flipped_anywhere_in_a_backup_is_found_before_anything_is_restored(
    world, faults, tmp_path, monkeypatch
):
    prepare(world)
    backup = back_up_cross()
    copy = tmp_path / "backups"
    for name in ("catalogue", "cross", "base", "wal"):
        shutil.copytree(catalogue.root() / name, copy / name)
    monkeypatch.setattr("django.conf.settings.BACKUP_DIR", copy)
    read_stored(backup)  # whole as it is
    accepted = 0
    for path in sorted(p for p in catalogue.folder_of(backup).rglob("*") if p.is_file()):
        raw = path.read_bytes()
        path.write_bytes(raw[: len(raw) // 3] + bytes([raw[len(raw) // 3] ^ 1]) + raw[len(raw) // 3 + 1 :])
        faults.happened("bit flipped")
        try:
            read_stored(backup)
            accepted += 1
        except Damaged:
            faults.did(refusals=1)
        path.write_bytes(raw)
    read_stored(backup)
    faults.wrong(accepted=accepted)


@pytest.mark.deep
def test_after_a_promotion_both_timelines_can_be_restored(lost, faults, tmp_path):
    """The server goes on as timeline 2; the backup of timeline 1 and a new one are both drilled."""
    old = next(b for b in catalogue.load_all()[0] if b.kind == "cross_system")
    faults.happened("promotion")
    with restoring_session() as db:
        restore_jetstream(db, plan_jetstream(db), tmp_path)
    lost.put(lost.agents[0], "second", 2)
    with open_session() as session:
        flush(session)
    new = back_up_cross()
    drills = [run_cross_drill(str(backup.pk)) for backup in (old, new)]
    faults.did(drills=len(drills))
    faults.wrong(
        problems=sum(len(drill.problems) for drill in drills),
        on_the_old_timeline=int(new.timeline <= old.timeline),
        built_on_the_old_one=int(Backup.objects.get(pk=new.parent_id).timeline != new.timeline),
    )


# -- to another moment, and beside a JetStream that survived ------------------------------------------------
@pytest.mark.deep
def test_to_another_moment_the_buckets_are_rebuilt_and_flush_is_replayed_up_to_it(world, faults, tmp_path):
    prepare(world)
    agent = world.agents[0]
    first = back_up_cross()
    world.put(agent, "before", 1)
    with open_session() as session:
        flush(session)
    world.put(agent, "unflushed", 1)
    eventually(lambda: flush_has(world, agent, "unflushed"))
    world.ask("UPDATE agents.registry SET agent_name = 'then' WHERE agent_id = %s", agent.pk)
    moment = world.ask("SELECT clock_timestamp()")[0][0]
    world.put(agent, "after", 1)
    world.ask("UPDATE agents.registry SET agent_name = 'later' WHERE agent_id = %s", agent.pk)
    with open_session() as session:
        flush(session)
    world.relay()
    later = back_up_cross()
    place = world.home / "moment"
    place.mkdir(mode=0o711)
    world.ask("SELECT pg_switch_wal()")
    code, _, said = world.manage(
        "backup", "restore", f"--target-directory={place / 'data'}", "--time", moment.isoformat()
    )
    assert code == 0, said
    world.lose_nats()
    faults.happened("JetStream's store deleted")
    world.start_restored(place / "data")
    with restoring_session() as db:
        plan = plan_jetstream(db)
        done = restore_jetstream(db, plan, tmp_path)
    assert (plan.source.stored.backup.pk, plan.source.later.backup.pk) == (first.pk, later.pk)
    world.relay()
    state = world.stored(agent)
    name = world.ask("SELECT agent_name FROM agents.registry WHERE agent_id = %s", agent.pk)[0][0]
    code, answer, _ = world.manage("bridge", "reconcile", "--dry-run")
    faults.did(keys_compared=answer["counts"]["compared"], replayed=sum(r.applied for r in done.replayed))
    faults.wrong(
        lost=int(state.get("before") != 1) + int(state.get("unflushed") != 1) + int(name != "then"),
        of_the_future=int("after" in state),
        differing=answer["counts"]["missing"] + answer["counts"]["stale"] + answer["counts"]["extra"],
    )


def flush_has(world, agent, key):
    async def look(client):
        with suppress(Exception):
            return await client.jetstream.get_last_msg(
                "FLUSH_AGENT_STATE", f"$KV.AGENT_STATE.{agent.pk}.{key}"
            )

    return connection.call(look)


@pytest.mark.deep
@pytest.mark.parametrize("mode", ["keep", "replace"])
def test_a_jetstream_that_survived_is_kept_or_replaced_as_asked(world, faults, mode):
    """PostgreSQL went back; JetStream has what agents wrote since."""
    prepare(world)
    agent = world.agents[0]
    world.put(agent, f"old_{mode}", 1)
    rename = "UPDATE agents.registry SET agent_name = %s WHERE agent_id = %s"
    world.ask(rename, f"then {mode}", agent.pk)  # waits in the outbox at the moment
    backup = back_up_cross()
    world.relay()
    world.ask(rename, f"later {mode}", agent.pk)
    world.relay()
    world.put(agent, f"since_{mode}", 1)
    with open_session() as session:
        flush(session)
    place = world.home / f"survived-{mode}"
    place.mkdir(mode=0o711)
    recover(plan_cross(backup), place / "data")
    faults.happened("PostgreSQL went back")
    world.start_restored(place / "data")
    code, _, said = world.manage("backup", "restore-jetstream")
    assert code == 2
    assert "--keep" in said
    code, _answer, said = world.manage("backup", "restore-jetstream", f"--{mode}", "--reason", "a test")
    assert code == 0, said
    world.use()
    world.relay()
    state = world.stored(agent)
    code, found, _ = world.manage("bridge", "reconcile", "--dry-run")
    faults.did(keys_compared=found["counts"]["compared"])
    faults.wrong(
        lost=int(state.get(f"old_{mode}") != 1), since=int((f"since_{mode}" in state) != (mode == "keep")),
        differing=found["counts"]["missing"] + found["counts"]["stale"] + found["counts"]["extra"],
    )  # fmt: skip
