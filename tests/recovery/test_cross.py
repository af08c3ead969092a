"""PostgreSQL and JetStream in one backup, at one moment, and back."""

import contextlib
import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import nats.js.errors
import pytest
from django.core.management import call_command

from bridge import connection, setup, topology
from bridge.hold import Held, Restored, read_hold, require_free
from bridge.relay import Memory, relay_batch
from bridge.session import execute, open_session
from operators.models import AuditEntry
from pg.errors import Refused, Unreachable
from recovery import catalogue, cross, cross_checks, cross_drill, manifest, moment, need, prune
from recovery.chain import choose_parent
from recovery.cross import back_up_cross, point_of
from recovery.cross_drill import run_cross_drill
from recovery.cross_manifest import read_stored
from recovery.cross_wal import check_wal, describe_wal
from recovery.errors import Damaged, NotInStep
from recovery.fetch import fetch
from recovery.growing import prove_all
from recovery.keeping import How, keepings
from recovery.models import Backup, TestResult
from recovery.need import need_of_cross, need_of_jetstream
from recovery.restore_jetstream import plan_jetstream, restoring_session
from recovery.server import home_server
from recovery.upload import upload
from recovery.wal import Segment, open_archive
from tests.bridge.flushing import flush
from tests.recovery.world import shared_world, world

__all__ = ["shared_world", "world"]


@pytest.fixture
def made(world) -> Backup:
    """The world's newest cross-system backup, its row as it was made."""
    backups = [b for b in catalogue.load_all()[0] if b.kind == "cross_system" and b.completed_at]
    if not backups:
        world.make_agents(3)
        world.relay()
        world.put(world.agents[0], "k", 1)
        backups = [back_up_cross()]
    return backups[0]


@pytest.fixture
def copied(made, tmp_path, monkeypatch) -> Backup:
    """The same in a folder of its own, to spoil."""
    place = tmp_path / "backups"
    for name in ("catalogue", "cross"):
        shutil.copytree(catalogue.root() / name, place / name)
    for name in ("base", "wal"):
        (place / name).symlink_to(catalogue.root() / name)
    monkeypatch.setattr("django.conf.settings.BACKUP_DIR", place)
    return made


# -- messages -------------------------------------------------------------------------------------------------
def publish(subject: str, data: bytes = b"{}") -> int:
    return connection.call(lambda c: c.jetstream.publish(subject, data)).seq


def messages_of(stream: str) -> dict[int, str]:
    """What a stream holds: subjects by sequence."""

    async def read(client):
        state = (await client.jetstream.stream_info(stream)).state
        found = {}
        for number in range(state.first_seq, state.last_seq + 1):
            with contextlib.suppress(nats.js.errors.NotFoundError):
                found[number] = (await client.jetstream.get_msg(stream, number)).subject
        return found

    return connection.call(read, 30)


# -- the manifest -------------------------------------------------------------------------------------------
def test_the_guide_s_fields_are_filled_and_every_file_has_its_checksum(made):
    folder = catalogue.folder_of(made)
    body = manifest.read_manifest(folder)
    assert body["backup_type"] == "cross_system_consistent"
    assert (
        datetime.strptime(body["backup_timestamp"], "%Y%m%d_%H%M%S").replace(tzinfo=UTC) <= made.completed_at
    )
    postgresql, nats = body["systems"]["postgresql"], body["systems"]["nats"]
    assert postgresql["backup_method"] == "pg_basebackup"
    assert (folder / postgresql["backup_location"] / "manifest.json").is_file()
    assert postgresql["database_version"] == made.server_version
    assert postgresql["backup_size"] > 1 << 20
    assert {entry["name"]: entry["how"] for entry in nats["kv_buckets"]} == {
        "AGENT_CONFIG": "snapshot", "TASK_STATE": "snapshot", "QUERY_CACHE": "not_kept",
        "AGENT_STATE": "rebuild", "SESSION_DATA": "rebuild",
    }  # fmt: skip
    assert {entry["name"] for entry in nats["streams"]} == {
        *topology.streams(), "FLUSH_AGENT_STATE", "FLUSH_SESSION_DATA",
    }  # fmt: skip
    for entry in nats["streams"] + nats["kv_buckets"]:
        if entry["backup_file"]:
            assert (folder / entry["backup_file"]).stat().st_size == entry["size"] > 0
    there = {f"./{path.relative_to(folder)}" for path in folder.rglob("*") if path.is_file()}
    assert body["checksums"].keys() == there - {"./manifest.json"}
    assert body["verification"]["backup_verified"] is True


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def add_a_blank(path):
    path.write_text(path.read_text() + " ")


def put_another_base(base):
    names = [path.name for path in base.iterdir()]
    base.unlink()
    for name in names:
        (base / name).mkdir(parents=True)
        (base / name / "manifest.json").write_text("{}")


@pytest.mark.parametrize(
    ("what", "spoil"),
    [
        ("is missing", lambda folder: (folder / "jetstream/AGENT_STATE/stream.tar.s2").unlink()),
        ("is not in the manifest", lambda folder: (folder / "jetstream/AGENT_STATE/more").touch()),
        ("has other contents", lambda folder: flip(folder / "jetstream/KV_AGENT_CONFIG/stream.tar.s2")),
        ("manifest.json is missing", lambda folder: (folder / "manifest.json").unlink()),
        ("is not the one that was written", lambda folder: add_a_blank(folder / "manifest.json")),
        ("builds on .*, which is gone", lambda folder: (folder.parent.parent / "base").unlink()),
        ("is not the one that", lambda folder: put_another_base(folder.parent.parent / "base")),
    ],
)
def test_a_missing_extra_or_changed_file_is_damage(copied, what, spoil):
    spoil(catalogue.folder_of(copied))
    with pytest.raises(Damaged, match=what):
        read_stored(copied)


def test_the_manifest_names_each_wal_segment_to_the_moment_with_its_checksum(made):
    entries = manifest.read_manifest(catalogue.folder_of(made))["systems"]["postgresql"]["wal"]
    archive = open_archive()
    size = archive.segment_bytes
    assert [Segment.parse(entry["segment"], size) for entry in entries] == [
        Segment(made.timeline, number)
        for number in range(made.start_lsn // size, (made.end_lsn - 1) // size + 1)
    ]
    for entry in entries:
        path = (catalogue.folder_of(made) / entry["file"]).resolve()
        assert path == archive.path(entry["segment"]).resolve()
        assert (path.stat().st_size, manifest.sha256_of(path)) == (entry["size"], entry["sha256"])


def own_wal(copied):
    """Return the archive of a copied backup, to spoil."""
    link = catalogue.root() / "wal"
    original = link.resolve()
    link.unlink()
    shutil.copytree(original, link)
    return open_archive()


@pytest.mark.parametrize(
    ("what", "spoil"),
    [
        ("WAL segment {} is missing", lambda path: path.unlink()),
        ("WAL file {}.gz has other contents", flip),
        ("WAL file {}.gz has 3 bytes", lambda path: path.write_bytes(b"cut")),
    ],
)
def test_wal_that_is_missing_or_changed_is_damage_of_the_server_s_side_alone(copied, capsys, what, spoil):
    name = manifest.read_manifest(catalogue.folder_of(copied))["systems"]["postgresql"]["wal"][-1]["segment"]
    spoil(own_wal(copied).path(name))
    with pytest.raises(Damaged, match=what.format(name)):
        read_stored(copied)
    with pytest.raises(SystemExit):
        call_command("backup", "check", str(copied.pk))
    assert what.format(name) in capsys.readouterr().err
    assert read_stored(copied, with_server=False).snapshots, "JetStream's side needs none of it"


def test_no_cross_system_backup_is_made_over_a_gap_in_the_wal(copied):
    archive = own_wal(copied)
    archive.path(
        Segment(copied.timeline, copied.start_lsn // archive.segment_bytes).name(archive.segment_bytes)
    ).unlink()
    with pytest.raises(Damaged, match="nothing would lead to the moment") as caught:
        describe_wal(copied, open_archive())
    assert "backup cross --copy" in caught.value.hint


def test_both_sides_are_fetched_when_only_the_store_has_the_backup(copied, tmp_path, monkeypatch):
    (tmp_path / "nas").mkdir()
    monkeypatch.setattr("django.conf.settings.BACKUP_STORE_URL", f"file://{tmp_path / 'nas'}")
    restored = Restored("test", datetime.now(UTC), {"value": point_of(copied), "lsn": copied.end_lsn})
    assert need_of_jetstream(restored) is None, "it is here"
    upload("backups")
    shutil.rmtree(catalogue.folder_of(copied))
    [found] = need_of_jetstream(restored).wanted
    assert found.backup.pk == copied.pk, "the server's side is not needed for it"
    before = Restored("test", datetime.now(UTC), {"lsn": copied.end_lsn - 1, "timeline": copied.timeline})
    assert [one.backup.pk for one in need_of_jetstream(before).wanted] == [copied.pk], "the next one after it"
    plan = need_of_cross(str(copied.pk))
    assert [one.backup.pk for one in plan.wanted] == [copied.pk]
    assert plan.wal == {}, "that is here"
    monkeypatch.setattr(need, "look_around", away)
    with pytest.raises(Unreachable):
        need_of_jetstream(restored)
    assert need_of_jetstream(before) is None, "what is here has to do"
    monkeypatch.undo()
    monkeypatch.setattr("django.conf.settings.BACKUP_DIR", tmp_path / "backups")
    fetch(plan)
    assert read_stored(copied).point == point_of(copied)


def away(*_):
    raise Unreachable("the store is away", "wait")


def test_a_manifest_from_before_it_named_wal_is_good(copied):
    body = manifest.read_manifest(catalogue.folder_of(copied))
    del body["systems"]["postgresql"]["wal"]
    assert check_wal(body, open_archive()) == []


def test_a_flipped_bit_in_a_snapshot_is_noticed_by_the_server_too(copied, tmp_path):
    stored = read_stored(copied)
    flip(stored.snapshots["KV_AGENT_CONFIG"].path)
    with pytest.raises(NotInStep, match="KV_AGENT_CONFIG"):
        prove_all(list(stored.snapshots.values()), tmp_path)


def test_a_snapshot_that_lacks_messages_is_found_by_its_restore(copied, tmp_path):
    """The server says 3 messages and gives 2: what it does when keys are overwritten meanwhile."""
    snapshot = read_stored(copied).snapshots["KV_AGENT_CONFIG"]
    said = replace(snapshot, state={**snapshot.state, "messages": snapshot.state["messages"] + 1})
    with pytest.raises(NotInStep, match="restores otherwise: messages"):
        prove_all([said], tmp_path)


# -- the fence ----------------------------------------------------------------------------------------------
def test_somebody_who_writes_past_the_fence_is_found(world, made, monkeypatch, tmp_path):
    real = moment.take

    async def meanwhile(client, stream, folder):
        snapshot = await real(client, stream, folder)
        if stream == "KV_AGENT_CONFIG":
            await client.jetstream.publish("$KV.AGENT_CONFIG.stranger", b"1")  # the drill below repairs it
        return snapshot

    monkeypatch.setattr(moment, "take", meanwhile)
    with pytest.raises(NotInStep, match="stream KV_AGENT_CONFIG changes under the fence"):
        moment.take_moment(home_server(), "xs_never", keepings(), tmp_path)
    world.make_agents(1)
    with open_session() as session:
        assert not relay_batch(session, Memory()).is_fenced, "the fence is over"


def test_a_publisher_that_does_not_pause_stops_the_backup_not_the_bridge(world, made, monkeypatch):
    from bridge.fence import shared_fence
    from recovery.errors import Busy

    monkeypatch.setattr(moment, "LOCK_SECONDS", 0.1)
    with open_session() as session, shared_fence(session) as held:
        assert held
        with pytest.raises(Busy, match="did not pause"):
            moment.take_moment(home_server(), "xs_never", [], catalogue.root())


def test_the_plan_names_every_bucket_and_stream_and_changes_nothing(made):
    before = Backup.objects.count()
    steps = cross.plan_steps()
    named = {step["object"] for step in steps}
    assert {keeping.stream for keeping in keepings()} <= named
    assert [step["action"] for step in steps if step["object"] == "KV_AGENT_STATE"] == ["rebuild"]
    assert {k.stream for k in keepings() if k.is_fenced} == {"KV_AGENT_CONFIG", "KV_TASK_STATE"}
    assert {k.name for k in keepings() if k.how is How.NOT_KEPT} == {"QUERY_CACHE"}
    assert Backup.objects.count() == before


# -- drills and watching ------------------------------------------------------------------------------------
def test_a_drill_brings_both_back_beside_the_running_ones(world, monkeypatch):
    """Flushed and unflushed state, events, and what the outbox held; nothing of what came later."""
    world.ask("DELETE FROM recovery.test_results")
    world.make_agents(3)
    world.relay()
    agent, other = world.agents[-2:]
    world.put(agent, "flushed", 1)
    with open_session() as session:
        flush(session)
    world.put(agent, "flushed", 2)
    world.put(agent, "unflushed", {"n": 1})
    world.put(agent, "both", "the agent's")
    write = "INSERT INTO agents.state (agent_id, state_key, state_value) VALUES (%s, 'both', %s)"
    world.ask(write, agent.pk, '"PostgreSQL\'s"')
    event = publish("agents.state.note")
    world.ask("UPDATE agents.registry SET agent_name = 'renamed' WHERE agent_id = %s", other.pk)
    epoch = setup.read_found().created["AGENT_MESSAGES"]
    real_take, real_rest, seen = cross.take_growing, cross_drill.come_to_rest, {}

    def take_later(*arguments):
        """What comes after the fence and before the snapshots of what grows."""
        publish("agents.state.note")
        world.put(agent, "flushed", 3)
        world.put(agent, "too_late", 1)
        real_take(*arguments)

    def rest(db):
        wrong = real_rest(db)
        rows = execute(db, "SELECT state_key, state_value FROM agents.state WHERE agent_id = %s", [agent.pk])
        seen.update(state=dict(rows), events=messages_of("AGENT_STATE"), created=setup.read_found().created)
        seen.update(config=read_config(other), held=read_hold(db))
        seen["conflicts"] = execute(db, "SELECT winner, kv_value FROM bridge.conflict")
        return wrong

    monkeypatch.setattr(cross, "take_growing", take_later)
    monkeypatch.setattr(cross_drill, "come_to_rest", rest)
    backup = back_up_cross()
    world.relay()

    found = run_cross_drill(str(backup.pk))
    assert found.problems == []
    state = {key: json.loads(value) for key, value in seen["state"].items()}
    assert state == {"flushed": 2, "unflushed": {"n": 1}, "both": "PostgreSQL's"}
    assert seen["conflicts"] == [("postgresql", '"the agent\'s"')], "the relay decides, and keeps both"
    assert seen["config"]["agent_name"] == "renamed", "the relay finishes what the outbox held"
    assert event in seen["events"]
    assert event + 1 not in seen["events"], "cut at the moment"
    assert seen["created"]["AGENT_MESSAGES"] == epoch, "messages keep the ids that were minted of it"
    assert seen["held"] is None
    row = TestResult.objects.get()
    assert (row.test_type, row.test_status, row.data_verification_passed) == ("cross_system", "passed", True)
    figures = row.performance_metrics
    assert (figures["replayed"], figures["outbox_rows"], figures["repaired_keys"]) == (2, 2, 1)
    assert figures["rto_seconds"] > figures["jetstream_seconds"] > 0
    statuses = {b.status for b in Backup.objects.filter(pk__in=[backup.pk, backup.parent_id])}
    assert statuses == {"verified"}
    assert [finding.ok for finding in cross_checks.look_at_cross()] == [True]
    assert cross_checks.newest_proof() == row
    assert [value for _, value in cross_checks.read_failed()] == [0]


def read_config(agent):
    subject = f"$KV.AGENT_CONFIG.{agent.pk}"
    return json.loads(connection.call(lambda c: c.jetstream.get_last_msg("KV_AGENT_CONFIG", subject)).data)


def test_a_drill_of_damaged_files_fails_and_says_so(world, copied):
    flip(catalogue.folder_of(copied) / "jetstream/FLUSH_AGENT_STATE/stream.tar.s2")
    found = run_cross_drill(str(copied.pk))
    assert "has other contents" in found.problems[0]
    assert Backup.objects.get(pk=copied.pk).status == "damaged"
    assert not next(iter(cross_checks.look_at_cross())).ok
    assert [value for _, value in cross_checks.read_failed()] == [1]
    world.ask("DELETE FROM recovery.test_results")


def test_an_incremental_backup_never_builds_on_a_cross_system_one(made):
    backups = [b for b in catalogue.load_all()[0] if b.status in ("complete", "verified")]
    assert backups[0].kind == "cross_system", "the newest"
    parent = choose_parent(Backup(system_identifier=made.system_identifier), backups)
    assert parent.pk == made.parent_id


# -- retention ----------------------------------------------------------------------------------------------
def test_what_a_kept_cross_system_backup_needs_is_kept(world, made):
    """Its base, though out of retention, and the WAL up to its moment."""
    now = made.completed_at + timedelta(days=400)
    cross_one, base = made, Backup.objects.get(pk=made.parent_id)
    for backup in (cross_one, base):
        backup.status, backup.verified_at = "verified", backup.completed_at
    newer = Backup(**{f.attname: getattr(base, f.attname) for f in Backup._meta.concrete_fields})
    newer.pk, newer.completed_at = UUID(int=7), now - timedelta(days=10)
    newer.start_lsn, newer.end_lsn = base.end_lsn + (1 << 30), base.end_lsn + (1 << 30) + 1
    newest = Backup(**{f.attname: getattr(newer, f.attname) for f in Backup._meta.concrete_fields})
    newest.pk, newest.completed_at = UUID(int=8), now
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "is_stored", lambda backup: True)
        without = {s.backup_id: s.action for s in prune.plan_retention_of([base, newer, newest], now).steps}
        kept = {
            s.backup_id: s.action
            for s in prune.plan_retention_of([base, newer, newest, cross_one], now).steps
        }
        segments = prune.as_physical(cross_one).own_segments(16 << 20)
    assert (without[base.pk], kept[base.pk]) == ("remove", "keep")
    assert Segment(1, (made.end_lsn - 1) // (16 << 20)) in segments


# -- the whole way: last, since it leaves a server on another timeline --------------------------------------
@pytest.mark.deep
def test_both_systems_come_back_at_one_moment_by_commands(world, monkeypatch):
    """Flushed and unflushed state, events, and what the outbox held; nothing of what came later. The short form is the
    drill below."""
    world.make_agents(4)
    world.relay()
    agent, other, *_ = world.agents
    world.put(agent, "flushed", 1)
    with open_session() as session:
        flush(session)
    world.put(agent, "flushed", 2)
    world.put(agent, "unflushed", {"n": 1})
    event = publish("agents.state.note", b"before")
    world.ask("UPDATE agents.registry SET agent_name = 'renamed' WHERE agent_id = %s", other.pk)
    epoch = setup.read_found().created["AGENT_MESSAGES"]
    real = cross.take_growing

    def later(*arguments):
        """What comes after the fence and before the snapshots of what grows."""
        publish("agents.state.note", b"too late")
        world.put(agent, "flushed", 3)
        world.put(agent, "too_late", 1)
        real(*arguments)

    monkeypatch.setattr(cross, "take_growing", later)
    backup = back_up_cross()
    world.relay()
    world.ask("DELETE FROM agents.state")

    restored = world.home / "back" / "data"
    restored.parent.mkdir(mode=0o711)
    code, answer, _ = world.manage("backup", "restore", str(backup.pk), f"--target-directory={restored}")
    assert (code, answer["items"][0]["why"]) == (0, f'at restore point "{point_of(backup)}"')
    world.lose_nats()
    world.start_restored(restored)
    with open_session() as session:
        assert relay_batch(session, Memory()).is_fenced, "the bridge waits for JetStream"
        with pytest.raises(Held):
            require_free(session)
    assert setup.read_found().configs == {}
    code, answer, _ = world.manage("backup", "restore-jetstream", "--dry-run")
    assert (code, len(answer["steps"])) == (0, len(keepings()) + 2)
    code, answer, said = world.manage("backup", "restore-jetstream", "--reason", "the disk is gone")
    assert code == 0, said
    assert answer["counts"]["replayed"] == 2
    assert answer["counts"]["outbox_rows"] == 1
    assert AuditEntry.objects.filter(action="recovery.restore_jetstream", reason="the disk is gone").exists()

    connection.close()
    world.relay()
    assert world.stored(agent) == {"flushed": 2, "unflushed": {"n": 1}}
    assert read_config(other)["agent_name"] == "renamed", "the relay finished the job"
    kept = messages_of("AGENT_STATE")
    assert event in kept
    assert event + 1 not in kept, "cut at the moment"
    assert setup.read_found().created["AGENT_MESSAGES"] == epoch, "messages keep the ids minted of it"
    code, answer, _ = world.manage("bridge", "reconcile", "--dry-run")
    assert (code, answer["counts"]["left"]) == (0, 0)
    with restoring_session() as db, pytest.raises(Refused, match="was not restored"):
        plan_jetstream(db)
