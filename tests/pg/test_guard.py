"""Servers that must not be written to."""

import json

import psycopg
import pytest
from django.db import connections

from pg.guard import Guard, Look, NotPrimary, cut, look_at

PRIMARY, STANDBY, PROMOTED = Look(False, 1, "7"), Look(True, 0, "7"), Look(False, 2, "7")


@pytest.fixture
def connect(own_database):
    opened = []

    def open_one():
        opened.append(own_database.connect())
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.close()


def test_a_server_says_what_it_is(connect):
    look = look_at(connect())
    assert not look.is_standby
    assert look.timeline == 1
    assert look.system_id.isdigit()


def test_a_standby_is_refused_where_writes_go_and_let_in_where_they_need_not(connect):
    guard = Guard()
    with pytest.raises(NotPrimary, match="b:2 is a standby"):
        guard.admit(connect(), STANDBY, "b:2", must_lead=True)
    guard.admit(connect(), STANDBY, "b:2", must_lead=False)


def test_an_older_timeline_than_seen_is_refused_with_a_hint(connect):
    guard = Guard()
    guard.admit(connect(), PROMOTED, "b:2", True, "a:1,b:2")
    with pytest.raises(NotPrimary, match=r"a:1 is on timeline 1, but timeline 2 was seen.*HINT"):
        guard.admit(connect(), PRIMARY, "a:1", True, "a:1,b:2")
    guard.admit(connect(), PROMOTED, "a:1", True, "a:1,b:2")  # the same one is fine


def test_a_copy_of_the_cluster_under_another_address_is_another_one(connect):
    guard = Guard()
    guard.admit(connect(), PROMOTED, "restored:1", True)
    guard.admit(connect(), PRIMARY, "a:1", True)


def test_a_newer_timeline_cuts_what_is_connected_to_the_old_primary(connect):
    guard = Guard()
    old, new = connect(), connect()
    guard.admit(old, PRIMARY, "a:1", True, "a:1,b:2")
    guard.admit(new, PROMOTED, "b:2", True, "a:1,b:2")
    assert guard.is_outdated(old)
    assert not guard.is_outdated(new)
    with pytest.raises(psycopg.OperationalError):
        old.execute("SELECT 1")
    assert new.execute("SELECT 1").fetchone() == (1,)


def test_the_timeline_outlives_the_process(connect, tmp_path):
    path = tmp_path / "timelines.json"
    Guard(path).admit(connect(), PROMOTED, "b:2", True, "a:1,b:2")
    assert json.loads(path.read_text()) == {"7@a:1,b:2": 2}
    with pytest.raises(NotPrimary, match=f"remove {path}"):
        Guard(path).admit(connect(), PRIMARY, "a:1", True, "a:1,b:2")


def test_a_first_timeline_leaves_no_file(connect, tmp_path):
    Guard(tmp_path / "timelines.json").admit(connect(), PRIMARY, "a:1", True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "no json", "[1]"])
def test_a_file_that_cannot_be_read_is_no_memory_and_no_outage(connect, tmp_path, text):
    path = tmp_path / "timelines.json"
    path.write_text(text)
    Guard(path).admit(connect(), PRIMARY, "a:1", True)


def test_a_cut_connection_is_broken_at_once(connect):
    connection = connect()
    cut(connection)
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    cut(connection)  # once more does no harm


@pytest.mark.django_db
def test_our_own_connections_are_watched():
    from pg.opener import guard

    assert guard().writes(connections["default"].connection)
