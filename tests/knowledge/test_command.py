import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from knowledge.facts import assert_fact
from knowledge.models import Fact

pytestmark = pytest.mark.django_db


def run(*arguments):
    out = StringIO()
    call_command("knowledge", *arguments, "--json", stdout=out)
    return json.loads(out.getvalue())


def test_search_shows_who_said_what():
    assert_fact("note", "one", "about", "red  apples\n" + "x" * 200, evidence={"page": 3})
    answer = run("search", "red", "apples", "--limit", "1", "--type", "note")
    (item,) = answer["items"]
    assert (item["entity_id"], item["predicate"], item["evidence"]) == ("one", "about", {"page": 3})
    assert item["text"].startswith("red apples x")
    assert len(item["text"]) == 100
    assert answer["counts"] == {"found": 1}


def test_search_takes_times(capsys):
    assert_fact("note", "one", "about", "red")
    assert run("search", "red", "--as-of", "2020-01-01")["items"] == []
    assert run("search", "red", "--known-at", "2020-01-01T00:00:00Z")["items"] == []
    with pytest.raises(SystemExit) as caught:
        run("search", "red", "--as-of", "soon")
    assert caught.value.code == 2
    assert "not an ISO 8601 time" in capsys.readouterr().err


def test_ingest_reads_a_file(tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_text('{"entity_type": "t", "entity_id": "e", "predicate": "p", "value": 1}\n')
    assert run("ingest", str(path))["counts"] == {"lines": 1, "added": 1, "superseded": 0, "unchanged": 0}


def test_ingest_reads_standard_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", StringIO("{}\n"))
    with pytest.raises(CommandError, match="line 1: lacks entity_type") as caught:
        run("ingest")
    assert caught.value.returncode == 2
    assert "HINT: nothing is stored" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "No such file"), (b"\xff\xfe", "not UTF-8 at byte 0")]
)
def test_a_file_that_cannot_be_read_is_an_error_with_a_hint(tmp_path, content, message):
    path = tmp_path / "facts.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CommandError, match=message) as caught:
        run("ingest", str(path))
    assert "HINT" in str(caught.value)


def test_history_shows_ends_and_successors():
    old, new = assert_fact("t", "e", "p", "a"), assert_fact("t", "e", "p", "b")
    items = run("history", "e")["items"]
    assert [item["text"] for item in items] == ["b", "a"]
    assert items[1]["superseded_by"] == str(new.pk)
    shown = run(
        "history", "e", "--known-at", old.created_at.isoformat(), "--as-of", old.valid_from.isoformat()
    )
    assert [item["text"] for item in shown["items"]] == ["a"]


def test_history_of_nothing_exits_1():
    with pytest.raises(SystemExit) as caught:
        run("history", "nobody")
    assert caught.value.code == 1


def test_stats_estimates(django_assert_max_num_queries):
    assert_fact("t", "e", "p", "a")
    with django_assert_max_num_queries(3):
        answer = run("stats")
    assert set(answer["counts"]) == {"facts", "facts_bytes", "embeddings", "embeddings_bytes"}
    assert answer["counts"]["facts_bytes"] > 0
    dimensions = {item["model"]: item["dimensions"] for item in answer["items"]}
    assert dimensions == {"all-MiniLM-L6-v2": 384, "text-embedding-ada-002": 1536}
    assert all(item["partition"] for item in answer["items"])


def test_an_error_changes_nothing():
    with pytest.raises(CommandError, match="no word to look for"):
        run("search", "the")
    assert not Fact.objects.exists()
