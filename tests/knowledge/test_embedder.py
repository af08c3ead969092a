import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from django.db import connection
from django.utils import timezone

from demo.claims import claims_of
from demo.modules import find_module
from demo.reader import read_source
from knowledge import jobs
from knowledge.claims import Claim
from knowledge.embedder import (
    FROM_THE_START,
    LATE,
    count_waiting,
    embed_all,
    embed_for,
    embed_portion,
    embed_waiting,
    embedder_lock,
    low_priority,
    note_caught_up,
    read_oldest_waiting,
    read_waiting,
)
from knowledge.embeddings import activate_model, find_model, make_default, retire_model, save_model
from knowledge.errors import (
    BadClaim,
    Contended,
    ProviderFailed,
    ProviderUnavailable,
    TextRefused,
    UnknownModel,
)
from knowledge.facts import assert_fact, assert_facts, retract_fact
from knowledge.models import Embedding, EmbeddingModel, Fact
from knowledge.vector_index import EXACT_ROWS, ensure_index, index_states
from pg.errors import Refused
from tests.knowledge.waiting import eventually

ROOT = Path(__file__).parents[2]


def notes(count, start=0):
    numbers = range(start, start + count)
    assert_facts([Claim("note", f"n{number}", "about", f"it is number {number}") for number in numbers])


def embed(model, **options):
    return embed_all(model, options.get("limit"), lambda portion: None)


def embedded(model):
    return Embedding.objects.filter(embedding_model=model).count()


# -- what gets a vector -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("value", "options", "gets_one"),
    [
        ("three little words", {}, True),
        ("two words", {}, False),
        ("three little words", {"object_type": "code"}, False),
        (42, {}, False),
        ({"text_content": "three little words"}, {}, False),
        ({"text_content": "three little words"}, {"object_type": "text"}, True),
        ("x" * 10_000 + " two words", {}, True),
    ],
)
@pytest.mark.django_db
def test_open_texts_of_three_words_get_a_vector(model, provider, value, options, gets_one):
    assert_fact("note", "one", "about", value, **options)
    embed(model)
    assert embedded(model) == gets_one
    assert all(len(text) <= 4_000 for text in provider.texts)


@pytest.mark.django_db
def test_a_fact_is_embedded_as_a_sentence(model, provider):
    assert_fact("module", "argparse", "summary", "Command-line parsing library")
    embed(model)
    assert provider.texts == ["argparse summary: Command-line parsing library"]
    found = Embedding.objects.get()
    assert (found.text_content, found.embedding_version) == (provider.texts[0], "1")


@pytest.mark.django_db
def test_ended_and_retracted_facts_get_none_and_keep_theirs(model, provider):
    old = assert_fact("note", "one", "about", "the first long text")
    embed(model)
    assert_fact("note", "one", "about", "the second long text")
    wrong = assert_fact("note", "two", "about", "a very wrong text")
    retract_fact(wrong.pk)
    embed(model)
    assert len(provider.texts) == 2
    assert Embedding.objects.filter(fact=old).exists(), (
        "what held at a time past is still found by its meaning"
    )


# -- portions -----------------------------------------------------------------------------------------------
@pytest.mark.django_db
def test_embedding_twice_computes_nothing_anew(model, provider):
    notes(200)
    assert embed(model).added == 200
    assert embed(model).added == 0
    assert len(provider.texts) == len(set(provider.texts)) == 200
    assert max(map(len, provider.calls)) == 64


@pytest.mark.django_db
def test_each_portion_is_stored_before_the_next_and_the_rest_follows(model):
    notes(200)
    portions = embed_waiting(model)
    assert (next(portions).added, embedded(model)) == (64, 64)
    portions.close()
    assert count_waiting(model, 1_000) == 136
    assert embed(model).added == 136


@pytest.mark.django_db
def test_a_limit_is_kept_and_is_not_the_end(model):
    notes(100)
    done = embed(model, limit=70)
    assert (done.added, done.is_finished) == (70, False)
    assert find_model().caught_up_at is None
    assert embed(model, limit=31).is_finished


@pytest.mark.django_db
def test_a_slice_ends_after_the_portion_in_which_its_time_is_over(model):
    notes(200)
    done = embed_for(model, FROM_THE_START, 0)
    assert (done.added, done.is_finished) == (64, False)


@pytest.mark.django_db
def test_a_text_of_two_facts_is_computed_once(model, provider):
    first = assert_fact("note", "one", "about", "the very same text")
    embed(model)
    assert_fact("note", "one", "about", "some quite other text")
    embed(model)
    again = assert_fact("note", "one", "about", "the very same text")
    assert_fact("other", "one", "about", "the very same text")
    embed(model)
    assert len(provider.texts) == 2
    vectors = Embedding.objects.filter(fact__in=[first, again]).values_list("embedding_vector", flat=True)
    assert len(vectors) == 2
    assert vectors[0] == vectors[1]


@pytest.mark.django_db
def test_a_text_that_the_provider_refuses_stands_in_nobodys_way(model):
    notes(10)
    assert_fact("note", "bad", "about", "this text is refused")
    notes(10, start=10)
    done = embed(model)
    assert (done.added, done.refused, done.is_finished) == (20, 1, True)
    assert count_waiting(model, 100) == 1
    assert embed(model).refused == 1


@pytest.mark.django_db
def test_a_provider_that_refuses_every_text_ends_the_run(model, provider):
    assert_facts([Claim("note", f"n{number}", "about", "all are refused") for number in range(70)])
    with pytest.raises(TextRefused):
        embed(model)
    assert len(provider.calls) == 1 + 3


@pytest.mark.django_db
def test_a_failure_keeps_what_is_stored(model, provider, monkeypatch):
    notes(100)
    compute = type(provider).compute

    def fail_later(self, texts):
        if self.calls:
            raise ProviderFailed("the server is away")
        return compute(self, texts)

    monkeypatch.setattr(type(provider), "compute", fail_later)
    with pytest.raises(ProviderFailed):
        embed(model)
    assert embedded(model) == 64


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux only")
def test_vectors_are_computed_at_the_lowest_priority_and_the_process_keeps_its_own():
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with low_priority() as compute:
        assert compute(os.getpriority, os.PRIO_PROCESS, 0) == 19
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


# -- who waits ----------------------------------------------------------------------------------------------
@pytest.mark.django_db
def test_after_the_first_load_only_new_facts_are_looked_at(model):
    notes(3)
    assert read_oldest_waiting(model) == Fact.objects.earliest("created_at").created_at
    note_caught_up(model, timezone.now() + LATE * 2)
    model.refresh_from_db()
    assert count_waiting(model, 10) == 0
    assert read_oldest_waiting(model) is None
    assert jobs.embed_job()["three"] == "0 added"
    assert jobs.embed_everything_job()["three"] == "3 added"


@pytest.mark.django_db
def test_a_new_fact_waits_after_the_first_load(model):
    embed(model)
    model.refresh_from_db()
    assert model.caught_up_at is not None
    notes(1)
    assert count_waiting(model, 10) == 1


@pytest.mark.django_db
def test_catching_up_never_goes_back(model):
    late, early = timezone.now(), timezone.now() - LATE
    note_caught_up(model, late)
    note_caught_up(model, early)
    assert find_model().caught_up_at == late


@pytest.mark.django_db
def test_with_a_new_version_all_facts_wait_and_the_old_vectors_go(model):
    notes(5)
    embed(model)
    model = activate_model(find_model("three"), version="2")
    assert (count_waiting(model, 10), model.caught_up_at) == (5, None)
    assert embed(model).added == 5
    assert set(Embedding.objects.values_list("embedding_version", flat=True)) == {"2"}
    assert embedded(model) == 5


# -- jobs ---------------------------------------------------------------------------------------------------
@pytest.mark.django_db
def test_the_job_keeps_up_with_new_facts_by_active_models_only(model, monkeypatch):
    EmbeddingModel.objects.exclude(pk="three").update(state="paused")
    notes(3)
    assert jobs.embed_job() == {"three": "3 added"}
    assert jobs.embed_job() == {"three": "0 added"}
    notes(2, start=3)
    assert jobs.embed_job() == {"three": "2 added"}


@pytest.mark.django_db
def test_the_job_says_what_is_wrong_and_the_next_one_goes_on(model, provider):
    EmbeddingModel.objects.exclude(pk="three").update(state="paused")
    notes(3)
    provider.problem = ProviderUnavailable("the model is not installed", "install it")
    assert jobs.embed_job() == {"three": "the model is not installed"}
    provider.problem = None
    assert jobs.embed_job() == {"three": "3 added"}


# -- models -------------------------------------------------------------------------------------------------
@pytest.mark.django_db
def test_a_retired_models_vectors_are_gone_and_it_can_come_back(model):
    notes(3)
    embed(model)
    with pytest.raises(UnknownModel, match="searches use it"):
        retire_model(model)
    make_default(find_model("all-MiniLM-L6-v2"))
    for _ in range(2):
        retire_model(find_model("three"))
    assert not Embedding.objects.exists()
    with pytest.raises(UnknownModel, match="is retired"):
        embed(find_model("three"))
    again = activate_model(find_model("three"))
    assert embed(again).added == 3


@pytest.mark.django_db
def test_a_model_of_an_unknown_provider_is_not_saved(db):
    with pytest.raises(BadClaim, match="provider='nobody'"):
        save_model(EmbeddingModel(model_name="m", model_version="1", dimensions=3, provider="nobody"))


@pytest.mark.django_db
def test_an_unknown_model_is_named():
    with pytest.raises(UnknownModel, match="nothing: no such model"):
        find_model("nothing")
    EmbeddingModel.objects.update(is_default=False)
    with pytest.raises(UnknownModel, match="no model is the default"):
        find_model()


# -- two at once, and the index: outside of a transaction ---------------------------------------------------
@pytest.mark.django_db(transaction=True)
def test_while_one_embeds_the_other_leaves_or_waits(model, django_db_blocker, monkeypatch):
    monkeypatch.setattr("knowledge.embedder.LOCK_WAIT_SECONDS", 1)
    notes(3)
    other = connection.copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(hashtext('knowledge.embed'), hashtext('three'))")
        assert jobs.embed_job()["three"] == "another process is at it"
        with pytest.raises(Contended, match="another process"), embedder_lock(model, wait=True):
            pass
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock_all()")
        with embedder_lock(model, wait=True):
            assert embed(model).added == 3
    finally:
        other.close()


@pytest.mark.django_db
def test_two_that_compute_the_same_store_each_vector_once(model):
    notes(10)
    waiting = read_waiting(model, FROM_THE_START, 10)
    one, other = (embed_portion(model, waiting, lambda embed, texts: embed(texts)) for _ in range(2))
    assert (one.added, other.added) == (10, 0)
    assert embedded(model) == 10


def fill(model, count):
    """Store vectors without computing any."""
    with connection.cursor() as cursor:
        cursor.execute(
            "WITH f AS (INSERT INTO knowledge.facts (entity_type, entity_id, predicate, object_value, object_type)"
            " SELECT 'note', 'f' || n, 'about', to_jsonb(n), 'number' FROM generate_series(1, %s) n"
            " RETURNING fact_id, object_value::int AS n)"
            " INSERT INTO knowledge.embeddings"
            " (fact_id, embedding_model, embedding_version, embedding_vector, text_content)"
            " SELECT fact_id, %s, '1', array_fill(n::real, ARRAY[%s])::halfvec, n::text FROM f",
            [count, model.pk, model.dimensions],
        )


@pytest.mark.django_db(transaction=True)
def test_the_index_is_built_after_the_load_and_only_once(model):
    fill(model, EXACT_ROWS)
    notes(1)
    assert index_states()["three"].index is None
    embed(model)
    state = index_states()["three"]
    assert (state.is_ready, str(state)) == (True, "ready")
    assert not ensure_index(model)


@pytest.mark.django_db(transaction=True)
def test_few_vectors_need_no_index(model):
    fill(model, EXACT_ROWS)
    assert not ensure_index(model)
    assert "one by one" in str(index_states()["three"])


@pytest.mark.django_db(transaction=True)
def test_what_a_killed_build_left_behind_is_replaced(model):
    fill(model, EXACT_ROWS + 1)
    assert ensure_index(model)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass",
            [index_states()["three"].index],
        )
    assert "broken" in str(index_states()["three"])
    assert ensure_index(model)
    assert index_states()["three"].is_ready


@pytest.mark.django_db
def test_an_index_is_never_built_inside_a_transaction(model):
    fill(model, EXACT_ROWS + 1)
    with pytest.raises(Refused, match="inside a transaction"):
        ensure_index(model)


# -- killed -------------------------------------------------------------------------------------------------
@pytest.mark.deep
@pytest.mark.ci
@pytest.mark.django_db(transaction=True)
def test_a_killed_embedder_loses_nothing_and_the_next_goes_on():
    for name in ("argparse", "threading"):
        module = find_module(name)
        source = module.path.read_text("utf-8")
        assert_facts(
            [
                Claim(c.entity_type, c.entity_id, c.predicate, c.value, c.object_type)
                for c in claims_of(module, read_source(source, name), None)
            ]
        )
    local = find_model("all-MiniLM-L6-v2")
    all_waiting = count_waiting(local, 10_000)
    assert all_waiting > 100
    command = [sys.executable, "manage.py", "knowledge", "embed"]
    embedder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        eventually(lambda: embedded(local))
    finally:
        embedder.send_signal(signal.SIGKILL)
        embedder.communicate()
    before = embedded(local)
    assert 0 < before < all_waiting
    with embedder_lock(local, wait=True):
        assert embed(local).added == all_waiting - before
    assert embedded(local) == all_waiting
    assert count_waiting(local, 1) == 0
