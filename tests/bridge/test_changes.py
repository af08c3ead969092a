"""What a message of a FLUSH stream means."""

from datetime import UTC, datetime, timedelta

import pytest

from bridge.changes import Change, Letter, Unreadable, read_change, read_ttl
from bridge.flusher import newest

AT = datetime(2026, 3, 1, tzinfo=UTC)
SOURCE = {"Nats-Stream-Source": "KV_AGENT_STATE 42 > > $KV.AGENT_STATE.a.b x"}


def letter(data=b"1", subject="$KV.AGENT_STATE.a.b", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Letter(subject, data, SOURCE | named, sequence=7, epoch=5, stored_at=AT)


def test_a_put_has_its_revision_in_the_bucket():
    found = read_change(letter(b'{"x": 1}'), "AGENT_STATE")
    assert (found.key, found.value, found.revision, found.is_own) == ("a.b", '{"x": 1}', 42, False)
    assert (found.agent_epoch, found.expires_at) == (None, None)


@pytest.mark.parametrize("operation", ["DEL", "PURGE"])
def test_a_delete_has_no_value(operation):
    found = read_change(letter(b"", KV_Operation=operation), "AGENT_STATE")
    assert (found.value, found.is_own) == (None, False)
    assert read_change(letter(b"", KV_Operation=operation, Sync_Origin="pg"), "AGENT_STATE").is_own


@pytest.mark.parametrize(
    "headers", [{"Sync_Origin": "pg"}, {"Sync_Origin": "reconcile"}, {"Nats_Marker_Reason": "MaxAge"}]
)
def test_what_postgresql_sent_and_what_ran_out_changes_nothing(headers):
    assert read_change(letter(**headers), "AGENT_STATE") is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5),
        ("5s", 5),
        ("1h30m", 5400),
        ("1.5m", 90),
        ("never", None),
        ("0", None),
        ("soon", None),
        ("", None),
    ],
)
def test_a_time_to_live_is_read_as_the_server_reads_it(text, seconds):
    assert read_ttl(text) == (timedelta(seconds=seconds) if seconds else None)


def test_no_time_to_live_is_too_long_for_a_date():
    assert read_change(letter(Nats_TTL="9" * 30), "AGENT_STATE").expires_at > AT


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (letter(b"\xff"), "utf-8"),
        (letter(Agent_Epoch="first"), "invalid literal"),
        (letter(Agent_Epoch="0"), "must be an agent's epoch"),
        (letter(Nats_Stream_Source="KV_AGENT_STATE"), "not written through the bucket"),
    ],
)
def test_what_means_nothing_says_why(bad, why):
    with pytest.raises(Unreadable, match=why):
        read_change(bad, "AGENT_STATE")


def test_of_each_key_the_highest_revision_counts_whatever_the_order():
    changes = [
        Change(key, "", revision, False, None, None, letter())
        for key, revision in [("b", 3), ("a", 9), ("b", 2)]
    ]
    assert [(change.key, change.revision) for change, _ in newest((each, ("",)) for each in changes)] == [
        ("a", 9),
        ("b", 3),
    ]
