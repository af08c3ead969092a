"""WAL of a server that archives nowhere near us arrives by streaming, and restores."""

import os
import threading

import psycopg
import pytest

from monitoring.models import AlarmRule
from pg.errors import Refused
from recovery import catalogue, receiving
from recovery.errors import RecoveryError
from recovery.figures import read_slot_lag
from recovery.physical import back_up_server
from recovery.pitr import plan_recovery
from recovery.target import Target
from recovery.wal import open_archive
from tests.recovery.conftest import eventually

SEGMENT = "000000010000000000000005"


@pytest.fixture
def remote(told, backup_dir, monkeypatch, db):
    """The story's server, which goes on archiving elsewhere, and an empty backup folder of ours."""
    from tests.recovery.story import Story, use_server

    use_server(monkeypatch, told)
    monkeypatch.setattr(receiving, "home_server", lambda: told.server)
    yield Story(told.running, backup_dir, {}, {})
    with told.connect() as session:
        eventually(lambda: drop_slot(session))


def drop_slot(session):
    try:
        session.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
        return True
    except psycopg.errors.ObjectInUse:
        return False


class Receiver(threading.Thread):
    """Receives for as long as its block runs."""

    def __init__(self):
        super().__init__()
        self.is_over, self.error, self.archived = threading.Event(), None, 0

    def run(self):
        try:
            self.archived = receiving.receive(self.is_over.is_set)
        except RecoveryError as error:
            self.error = error

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.is_over.set()
        self.join(60)
        assert not self.is_alive()


def test_what_is_streamed_is_archived_and_a_backup_made_meanwhile_restores(remote, place):
    with Receiver() as receiver, remote.connect() as session:
        eventually(lambda: receiving.receives(session))
        backup = back_up_server()
        assert not backup.has_wal, "it leaves its WAL to the archive"
        moment = remote.write("streamed")
        remote.switch()
    assert receiver.error is None
    assert receiver.archived >= 2
    assert not list((remote.root / receiving.FOLDER).glob("*[0-9A-F]")), (
        "what is archived does not lie there twice"
    )
    plan = plan_recovery(Target("name", "streamed"))
    assert remote.rows_in(plan, place) == moment.rows


@pytest.mark.ci  # ends as the one above, by the clock
def test_the_segment_is_finished_a_minute_after_something_was_written(remote, monkeypatch):
    monkeypatch.setattr(receiving, "SWITCH_SECONDS", 0)
    with Receiver(), remote.connect() as session:
        eventually(lambda: receiving.receives(session))
        name = session.execute("SELECT pg_walfile_name(pg_current_wal_insert_lsn())").fetchone()[0]
        remote.write("little", rows=1)
        eventually(lambda: open_archive().path(name).exists())


def test_without_the_right_to_replicate_it_is_said():
    class Session:
        def execute(self, text):
            return self

        def fetchone(self):
            return (False,)

    with pytest.raises(Refused, match="may not replicate"):
        receiving.require_replication(Session())


def test_a_file_that_the_archive_refuses_stays_and_is_said(backup_dir, db):
    folder = receiving.make_folder()
    (folder / SEGMENT).write_bytes(b"no segment")
    (folder / f"{SEGMENT}.partial").write_bytes(b"on its way")
    with pytest.raises(RecoveryError, match="WAL file 000000010000000000000005 has 10 bytes") as caught:
        receiving.archive_finished(folder)
    assert "it stays in" in caught.value.hint
    assert (folder / SEGMENT).exists()
    assert catalogue.root() == backup_dir


@pytest.mark.django_db
def test_a_slot_that_nobody_reads_is_an_alarm():
    """Its receiver is gone: the server keeps all WAL for it until the disk is full."""
    name = f"gone_{os.getpid()}"
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as session:
        session.execute("SET synchronous_commit = on")
        session.execute("SELECT pg_create_physical_replication_slot(%s, true)", [name])
        try:
            session.execute("SELECT pg_logical_emit_message(true, 'test', repeat('x', 100000))")
            held = {labels["slot"]: value for labels, value in read_slot_lag()}
        finally:
            session.execute("SELECT pg_drop_replication_slot(%s)", [name])
    assert held[name] > 100_000
    rule = AlarmRule.objects.get(metric="mistersmith_replication_slot_lag_bytes")
    assert 0 < rule.warning < rule.critical
    assert "max_slot_wal_keep_size" in rule.hint
