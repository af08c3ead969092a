import json
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from demo.claims import claims_of
from demo.modules import find_module
from demo.reader import read_source
from knowledge import hybrid, nearest
from knowledge.claims import Claim
from knowledge.embedder import embed_all
from knowledge.embeddings import find_model
from knowledge.errors import BadQuery, NoVectors, ProviderFailed, ProviderUnavailable
from knowledge.facts import assert_fact, assert_facts, retract_fact
from knowledge.hybrid import search
from knowledge.models import EmbeddingModel, Fact
from knowledge.nearest import Filters, exact_query, index_query, is_selective, nearest_facts
from knowledge.providers import local
from knowledge.search import Hit
from knowledge.vector_index import create_statement, index_states

pytestmark = pytest.mark.django_db


def embed(model=None):
    return embed_all(model or find_model(), None, lambda portion: None)


@pytest.fixture(scope="module")
def computed():
    """The vectors that the real model has made for `library`, by text: they take a second, and each test needs them."""
    return {}


def remember(computed):
    make = local.LocalProvider.compute

    def compute(provider, texts):
        new = [text for text in texts if text not in computed]
        computed.update(zip(new, make(provider, new), strict=True))
        return [computed[text] for text in texts]

    return compute


@pytest.fixture
def library(computed, monkeypatch):
    """Facts of real modules of this Python, with vectors of the real model."""
    for name in ("argparse", "cmd", "gzip", "timeit", "textwrap", "shelve", "secrets"):
        module = find_module(name)
        entities = read_source(module.path.read_text("utf-8"), name, max_entities=5)
        claims = claims_of(module, entities, None)
        assert_facts([Claim(c.entity_type, c.entity_id, c.predicate, c.value, c.object_type) for c in claims])
    with monkeypatch.context() as patch:
        patch.setattr(local.LocalProvider, "compute", remember(computed))
        embed()


def entities(query, **options):
    return [hit.entity_id for hit in search(query, **options).hits]


def test_the_demos_question_leads_to_argparse(library):
    assert entities("parse command line options", limit=1)[0].startswith("argparse")


@pytest.mark.parametrize(
    ("question", "wanted"),
    [
        ("which flags and arguments was my program started with?", "argparse"),
        ("how fast is my code?", "timeit"),
        ("make a document smaller so that it needs fewer bytes", "gzip"),
        ("dictionary that survives a restart of the program", "shelve"),
        ("generate passwords nobody can guess", "secrets"),
        ("break long lines at column 70", "textwrap"),
    ],
)
def test_questions_are_answered_by_meaning(library, question, wanted):
    found = search(question, 3, mode="semantic")
    assert wanted in {hit.entity_id.split(".")[0] for hit in found.hits}
    assert found.hits[0].similarity > 0.2


def test_argparse_is_found_without_a_word_in_common():
    question = "parse command line options"
    described = {
        "argparse": "reads the arguments and flags that a script was started with",
        "gzip": "makes files smaller and large again",
        "smtplib": "sends mail to a server",
        "sched": "runs events at given times",
        "turtle": "draws coloured shapes for beginners",
    }
    assert_facts([Claim("module", name, "about", text) for name, text in described.items()])
    embed()
    assert search(question, mode="text").hits == []
    for mode in ("semantic", "hybrid"):
        assert entities(question, mode=mode)[0] == "argparse"


def test_a_question_of_words_that_are_not_indexed_has_a_meaning(library):
    with pytest.raises(BadQuery):
        search("how do I do it?", mode="text")
    assert search("how do I do it?").hits


@pytest.mark.parametrize("mode", ["hybrid", "semantic"])
@pytest.mark.parametrize("query", ["", "  ", "\0"])
def test_an_empty_question_is_refused(library, mode, query):
    with pytest.raises(BadQuery):
        search(query, mode=mode)


@pytest.mark.parametrize("query", ['"parsing library"', "parsing -library"])
def test_phrases_and_exclusions_are_a_matter_of_words(library, query):
    found = search(query)
    assert (found.mode, found.warnings) == ("text", [])
    assert all(("parsing library" in hit.text) == ('"' in query) for hit in found.hits)


@pytest.mark.parametrize("limit", [0, 1_001])
def test_the_limit_has_bounds(limit):
    with pytest.raises(BadQuery, match="must be 1 to"):
        search("red", limit)


# -- one list out of two ------------------------------------------------------------------------------------
def hit(entity, **options):
    values = dict.fromkeys(Hit.__dataclass_fields__)
    return Hit(**{**values, "entity_type": "t", "entity_id": entity, "score": 0, "more": 0, **options})


def test_what_both_lists_have_comes_first_and_places_decide():
    worded, meant = [hit("a"), hit("b"), hit("c")], [hit("d"), hit("c", similarity=0.5), hit("b")]
    fused = hybrid.fuse(worded, meant)
    assert [found.entity_id for found in fused] == ["b", "c", "a", "d"]
    assert fused[0].score == round(1 / 62 + 1 / 63, 4)
    assert fused[1].similarity == 0.5


def test_an_entity_takes_one_place():
    found = hybrid.one_per_entity([hit("a", text="best"), hit("b"), hit("a"), hit("a")])
    assert [(one.entity_id, one.text, one.more) for one in found] == [("a", "best", 2), ("b", None, 0)]


def test_one_entity_does_not_fill_the_page(model):
    values = [f"red apples number {number}" for number in range(20)]
    assert_facts([Claim("note", "talkative", "says", value, many=True) for value in values])
    assert_fact("note", "other", "says", "red apples as well")
    embed()
    for mode in ("text", "semantic", "hybrid"):
        found = search("red apples", 10, mode=mode).hits
        assert sorted((one.entity_id, one.more) for one in found) == [("other", 0), ("talkative", 19)]


# -- times and filters --------------------------------------------------------------------------------------
def test_only_what_held_and_was_known_is_found_by_meaning(model):
    assert_fact("service", "billing", "owner", "the platform group")
    embed()
    before = timezone.now()
    new = assert_fact("service", "billing", "owner", "the payments team")
    embed()
    texts = {
        name: [one.text for one in search("who?", mode="semantic", **times).hits]
        for name, times in {
            "now": {},
            "as_of": {"as_of": before},
            "known_at": {"known_at": before},
            "long ago": {"as_of": before - timedelta(days=1)},
        }.items()
    }
    assert texts == {
        "now": ["the payments team"],
        "as_of": ["the platform group"],
        "known_at": ["the platform group"],
        "long ago": [],
    }
    retract_fact(new.pk)
    assert search("who?", mode="semantic").hits == []


def test_only_entities_of_the_type_are_found_by_meaning(model):
    assert_fact("fruit", "one", "about", "something that is red")
    assert_fact("car", "two", "about", "something that is red")
    embed()
    assert entities("red", mode="semantic", entity_type="car") == ["two"]


def test_vectors_of_another_version_are_not_compared(model):
    assert_fact("fruit", "one", "about", "something that is red")
    embed()
    EmbeddingModel.objects.filter(pk=model.pk).update(model_version="2")
    assert search("red", mode="semantic").hits == []


# -- the way to the vectors ---------------------------------------------------------------------------------
@pytest.fixture
def many(model):
    """3,000 facts with vectors and an index; ten of them are of a rare type."""
    with connection.cursor() as cursor:
        cursor.execute(
            "WITH f AS (INSERT INTO knowledge.facts (entity_type, entity_id, predicate, object_value, object_type)"
            " SELECT CASE WHEN n % 300 = 0 THEN 'rare' ELSE 'common' END, 'f' || n, 'about',"
            "  jsonb_build_object('text_content', n::text), 'text' FROM generate_series(1, 3000) n"
            " RETURNING fact_id, object_value ->> 'text_content' AS n)"
            " INSERT INTO knowledge.embeddings"
            " (fact_id, embedding_model, embedding_version, embedding_vector, text_content)"
            " SELECT fact_id, 'three', '1',"
            "  ARRAY[cos(n::real / 2000), sin(n::real / 2000), 0.1]::real[]::halfvec, n FROM f"
        )
        statement = create_statement(index_states()["three"].partition, 3)
        cursor.execute(statement.replace("CONCURRENTLY", ""))
        cursor.execute("ANALYZE knowledge.facts; ANALYZE knowledge.embeddings")
    return model


EAST = [1.0, 0.0, 0.1]


def plan_of(query):
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")  # three thousand rows are few
    return query[:10].explain()


def test_a_filter_that_leaves_few_is_answered_exactly(many, monkeypatch):
    filters = Filters(entity_type="rare")
    assert is_selective(filters)
    assert "hnsw" not in plan_of(exact_query(many, EAST, filters))
    monkeypatch.setattr(nearest, "index_query", None)
    found = nearest_facts(many, EAST, 10, filters)
    assert [Fact.objects.get(pk=pk).entity_id for pk, _ in found[:2]] == ["f300", "f600"]


def test_a_filter_that_leaves_many_is_answered_from_the_index(many, monkeypatch):
    assert not is_selective(Filters())
    assert "_hnsw" in plan_of(index_query(many, EAST, Filters()))
    assert "_hnsw" not in plan_of(exact_query(many, EAST, Filters()))
    asked = []
    monkeypatch.setattr(nearest, "exact_query", lambda *arguments: asked.append(arguments))
    found = nearest_facts(many, EAST, 50, Filters())
    assert not asked
    assert len(found) == 50
    assert [distance for _, distance in found] == sorted(distance for _, distance in found)


def test_the_bound_between_the_two_ways_is_exact_rows(many, monkeypatch):
    monkeypatch.setattr(nearest, "EXACT_ROWS", 10)
    assert is_selective(Filters(entity_type="rare"))
    monkeypatch.setattr(nearest, "EXACT_ROWS", 9)
    assert not is_selective(Filters(entity_type="rare"))


def test_where_the_index_gives_up_all_are_compared(many, monkeypatch):
    """A filter against which the index finds nothing: as if it stopped after a few tuples."""
    monkeypatch.setattr(nearest, "is_selective", lambda filters: False)
    monkeypatch.setattr(nearest, "index_query", lambda *arguments: exact_query(*arguments).none())
    assert len(nearest_facts(many, EAST, 10, Filters(entity_type="rare"))) == 10


# -- without vectors ----------------------------------------------------------------------------------------
def test_without_vectors_words_answer_and_it_is_said(db):
    assert_fact("note", "one", "about", "three red apples")
    found = search("red apples")
    assert (found.mode, [one.entity_id for one in found.hits]) == ("text", ["one"])
    assert "searched by words only: no fact has a vector of all-MiniLM-L6-v2 yet" in found.warnings[0]
    with pytest.raises(NoVectors):
        search("red apples", mode="semantic")


@pytest.mark.parametrize(
    "problem", [ProviderUnavailable("it is gone", "install"), ProviderFailed("it is away")]
)
def test_without_the_provider_words_answer_and_it_is_said(model, provider, problem):
    assert_fact("note", "one", "about", "three red apples")
    embed()
    provider.problem = problem
    found = search("red apples")
    assert (found.mode, [one.entity_id for one in found.hits]) == ("text", ["one"])
    assert str(problem) in found.warnings[0]
    with pytest.raises(type(problem)):
        search("red apples", mode="semantic")


def test_without_a_default_model_words_answer(db):
    EmbeddingModel.objects.update(is_default=False)
    assert "no model is the default" in search("red").warnings[0]


def test_the_command_says_so_and_semantic_search_ends_with_2(library, monkeypatch, capsys, tmp_path):
    wrong = tmp_path / "model.onnx"
    wrong.write_bytes(b"something else")
    monkeypatch.setattr(local, "find_model_file", lambda: wrong)
    fresh = local.LocalProvider("all-MiniLM-L6-v2", 384)
    monkeypatch.setattr(hybrid, "provider_of", lambda model: fresh)
    out = StringIO()
    call_command("knowledge", "search", "parsing library", "--json", stdout=out)
    answer = json.loads(out.getvalue())
    assert answer["items"][0]["entity_id"].startswith("argparse")
    assert "is not the model that we know" in answer["warnings"][0]
    with pytest.raises(CommandError, match="is not the model that we know") as caught:
        call_command("knowledge", "search", "parsing library", "--semantic")
    assert caught.value.returncode == 2
    assert "HINT: reinstall it" in str(caught.value)
