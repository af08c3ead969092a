from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from agents.registry import register_agent
from demo.claims import claims_of
from demo.modules import find_module
from demo.reader import read_source
from knowledge.claims import Claim
from knowledge.errors import BadQuery
from knowledge.facts import assert_fact, assert_facts, retract_fact
from knowledge.models import Fact
from knowledge.search import MAX_LIMIT, StemmedQuery, read_words, search_text

pytestmark = pytest.mark.django_db
MODULES = (
    "argparse",
    "cmd",
    "getopt",
    "json",
    "optparse",
    "pdb",
    "py_compile",
    "shlex",
    "textwrap",
    "timeit",
)


@pytest.fixture
def reader(db):
    return register_agent("demo-reader", "reader-1")


@pytest.fixture
def library(reader):
    """Facts of real modules of this Python."""
    for name in MODULES:
        module = find_module(name)
        assert_facts(claims_of(module, read_source(module.path.read_text("utf-8"), name), reader.pk))


def found(query, **options):
    return [hit.entity_id for hit in search_text(query, **options)]


@pytest.mark.usefixtures("library")
def test_command_line_options_lead_to_argparse(reader):
    best = search_text("command line options")[0]
    assert best.entity_id.startswith("argparse")
    assert best.source_agent == reader.agent_name
    assert best.evidence["file"].endswith("argparse.py")
    assert best.evidence["line"] >= 1


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("argparse.ArgumentParser", "argparse.ArgumentParser"),
        ("ArgumentParser", "argparse.ArgumentParser"),
        ("add_argument", "argparse"),
        ("wrap paragraph", "textwrap"),
        ("measure execution time of small code snippets", "timeit"),
    ],
)
def test_names_and_meanings_are_found(query, wanted):
    assert found(query, limit=1)[0].startswith(wanted)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", ["argparse", "json", "getopt"])
def test_a_module_is_found_by_its_own_name(name):
    assert {entity.split(".")[0] for entity in found(name, limit=5)} == {name}


@pytest.mark.parametrize(
    "query", ["argparse", "argument", "parser", "ArgumentParser", "argparse.ArgumentParser"]
)
def test_each_part_of_a_name_finds_it(query):
    assert_fact("class", "argparse.ArgumentParser", "line", 1)
    assert found(query) == ["argparse.ArgumentParser"]


def test_the_name_weighs_more_than_the_predicate_and_that_more_than_the_value():
    assert_fact("note", "value", "about", "zebra")
    assert_fact("note", "predicate", "zebra", "striped")
    assert_fact("note", "zebra", "about", "stripes")
    assert found("zebra") == ["zebra", "predicate", "value"]


def test_any_word_will_do_only_where_no_fact_has_all():
    assert_fact("note", "one", "about", "red apples")
    assert_fact("note", "two", "about", "red pears")
    assert found("red apples") == ["one"]
    assert sorted(found("red bananas")) == ["one", "two"]
    assert found("bananas") == []


def test_excluded_words_stay_excluded_where_any_word_will_do():
    assert_fact("note", "one", "about", "red apples")
    assert_fact("note", "two", "about", "blue")
    assert found("red bananas -apples") == ["one"]
    assert found("apples -red") == ["one"], "nothing has all: the rest of the words decides"


def test_a_phrase_is_found_as_it_stands():
    assert_fact("note", "one", "about", "the line of command")
    assert_fact("note", "two", "about", "the command line")
    assert found('"command line"') == ["two"]


def test_stems_are_not_stemmed_again():
    assert read_words("argparse")["every_word"] == "'argpars'"
    assert_fact("module", "argparse", "line", 1)
    assert Fact.objects.filter(search_text=StemmedQuery("'argpars'")).exists()


def test_only_what_holds_and_is_known_is_found():
    assert_fact("service", "billing", "owner", "platform group")
    before = timezone.now()
    new = assert_fact("service", "billing", "owner", "payments team")
    assert found("platform") == []
    assert found("platform", as_of=before) == found("platform", known_at=before) == ["billing"]
    assert found("payments", known_at=before) == []
    retract_fact(new.pk)
    assert found("payments") == []
    assert found("platform", as_of=before - timedelta(days=1)) == []


def test_only_entities_of_the_type_are_found():
    assert_fact("fruit", "one", "about", "red")
    assert_fact("car", "two", "about", "red")
    assert found("red", entity_type="car") == ["two"]


@pytest.mark.parametrize("query", ["", "   ", "the of", "-apples", "!!", "\0"])
def test_a_query_without_a_word_is_refused(query):
    with pytest.raises(BadQuery, match="no word to look for"):
        search_text(query)


@pytest.mark.parametrize(
    "query", ["it's a & b | c:* <-> 'x' \\ ! (", "a' & 'b", "%s %(x)s", "x" * 3000 + " y"]
)
def test_signs_of_the_query_language_are_only_text(query):
    assert_fact("note", "one", "about", "nothing of that")
    assert search_text(query) == []


@pytest.mark.parametrize("limit", [0, MAX_LIMIT + 1])
def test_the_limit_has_bounds(limit):
    with pytest.raises(BadQuery, match="must be 1 to"):
        search_text("red", limit)


@pytest.mark.parametrize("limit", [1, MAX_LIMIT])
def test_the_bounds_of_the_limit_are_accepted(limit):
    assert search_text("red", limit) == []


def test_the_search_reads_the_index():
    assert_facts_about_many_words()
    plan = Fact.objects.held().filter(search_text=StemmedQuery("'w77'")).explain()
    assert "idx_knowledge_facts_search_text" in plan, plan


def assert_facts_about_many_words():
    assert_facts([Claim("note", f"n{number}", "about", f"w{number % 200}") for number in range(2_000)])
    with connection.cursor() as cursor:
        # what was written just now waits in a list, which costs the more the longer it is
        cursor.execute("SELECT gin_clean_pending_list('knowledge.idx_knowledge_facts_search_text')")
        cursor.execute("ANALYZE knowledge.facts")
