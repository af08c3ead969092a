import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from knowledge import checks
from knowledge.embeddings import save_model
from knowledge.errors import BadClaim
from knowledge.facts import assert_fact
from knowledge.models import Embedding, EmbeddingModel

pytestmark = pytest.mark.django_db


def embed(fact, model="all-MiniLM-L6-v2", dimensions=384, text="words"):
    vector = [0.0] * (dimensions - 1) + [1.0]
    return Embedding.objects.create(
        fact=fact, embedding_model_id=model, embedding_version="1", embedding_vector=vector, text_content=text
    )


def partition_of(name):
    with connection.cursor() as cursor:
        cursor.execute("SELECT knowledge.model_partition(%s)::text", [name])
        return cursor.fetchone()[0]


def make_partition(name, dimensions):
    with connection.cursor() as cursor:
        cursor.execute("SELECT knowledge.create_model_partition(%s, %s)", [name, dimensions])
        return cursor.fetchone()[0]


def new_model(name, dimensions, **options):
    return EmbeddingModel(
        model_name=name, model_version="1", dimensions=dimensions, provider="openai", **options
    )


@pytest.mark.parametrize(
    ("model", "dimensions"), [("all-MiniLM-L6-v2", 384), ("text-embedding-ada-002", 1536)]
)
def test_an_embedding_goes_into_the_partition_of_its_model(model, dimensions):
    embed(assert_fact("t", "e", "p", "words"), model, dimensions)
    with connection.cursor() as cursor:
        cursor.execute("SELECT tableoid::regclass::text FROM knowledge.embeddings")
        assert cursor.fetchone()[0] == partition_of(model)


def test_another_number_of_dimensions_is_refused():
    with pytest.raises(IntegrityError, match="valid_dimensions"), transaction.atomic():
        embed(assert_fact("t", "e", "p", "words"), dimensions=385)


def test_the_same_text_of_a_fact_is_embedded_once():
    fact = assert_fact("t", "e", "p", "words")
    embed(fact)
    embed(fact, text="other words")
    with pytest.raises(IntegrityError), transaction.atomic():
        embed(fact)


def test_making_a_partition_twice_makes_one():
    first = make_partition("some-model", 3)
    assert make_partition("some-model", 3) == first == partition_of("some-model")
    with pytest.raises(DatabaseError, match="other dimensions than 4"), transaction.atomic():
        make_partition("some-model", 4)


def test_models_whose_names_look_alike_have_partitions_of_their_own():
    names = ["a-b", "a_b", "A/b", "x" * 100, "x" * 99]
    assert len({make_partition(name, 3) for name in names}) == len(names)
    assert all(partition_of(name) for name in names)


def test_a_quote_in_a_models_name_is_only_a_quote():
    assert make_partition("o'brien", 3) == make_partition("o'brien", 3)


@pytest.mark.parametrize("dimensions", [0, 4001])
def test_dimensions_have_bounds(dimensions):
    with pytest.raises(DatabaseError, match="1 to 4000"), transaction.atomic():
        make_partition("some-model", dimensions)


@pytest.mark.parametrize("dimensions", [1, 4000])
def test_the_bounds_of_dimensions_are_accepted(dimensions):
    assert make_partition("some-model", dimensions)


def test_saving_a_model_makes_its_partition_and_moves_the_default():
    save_model(new_model("some-model", 3, is_default=True))
    assert partition_of("some-model")
    assert EmbeddingModel.objects.get(is_default=True).model_name == "some-model"


def test_a_model_that_its_partition_contradicts_is_not_saved():
    make_partition("some-model", 4)
    with pytest.raises(BadClaim, match="other dimensions"):
        save_model(new_model("some-model", 3))
    assert not EmbeddingModel.objects.filter(pk="some-model").exists()


# -- doctor -------------------------------------------------------------------------------------------------
def findings(look):
    return [(finding.ok, finding.detail) for finding in look()]


def test_a_healthy_schema_has_nothing_to_report():
    looks = (checks.look_at_extension, checks.look_at_indexes, checks.look_at_models)
    assert all(ok for look in looks for ok, _ in findings(look))


def test_a_missing_extension_is_reported():
    with connection.cursor() as cursor:
        cursor.execute("DROP EXTENSION vector CASCADE")
    (finding,) = checks.look_at_extension()
    assert not finding.ok
    assert "migrate" in finding.hint


def test_an_invalid_index_is_reported():
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE pg_index SET indisvalid = false"
            " WHERE indexrelid = 'knowledge.idx_knowledge_facts_search_text'::regclass"
        )
    (finding,) = checks.look_at_indexes()
    assert not finding.ok
    assert "knowledge.idx_knowledge_facts_search_text" in finding.hint


def test_a_model_without_partition_and_a_missing_default_are_reported():
    EmbeddingModel.objects.update(is_default=False)
    new_model("some-model", 3).save()
    bad = [detail for ok, detail in findings(checks.look_at_models) if not ok]
    assert bad == ["some-model: no partition", "no embedding model is the default"]


# -- admin --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("model", ["fact", "embedding", "embeddingmodel"])
def test_each_list_opens(admin_client, model):
    embed(assert_fact("t", "e", "p", "words"))
    assert admin_client.get(reverse(f"admin:knowledge_{model}_changelist")).status_code == 200


def test_vectors_and_search_texts_are_never_loaded(admin_client):
    embedding = embed(assert_fact("t", "e", "p", "words"))
    pages = [
        reverse("admin:knowledge_embedding_changelist"),
        reverse("admin:knowledge_embedding_change", args=[embedding.pk]),
        reverse("admin:knowledge_fact_changelist") + "?q=words",
        reverse("admin:knowledge_fact_change", args=[embedding.fact_id]),
    ]
    with CaptureQueriesContext(connection) as queries:
        assert all(admin_client.get(page).status_code == 200 for page in pages)
    selected = [query["sql"].partition(" FROM ")[0] for query in queries if query["sql"].startswith("SELECT")]
    assert not [sql for sql in selected if "embedding_vector" in sql or "search_text" in sql]


def test_facts_are_searched_by_words_and_held_ones_are_shown(admin_client):
    assert_fact("t", "old", "p", "red apples")
    assert_fact("t", "old", "p", "green pears")
    url = reverse("admin:knowledge_fact_changelist")

    def shown(**query):
        return [str(fact) for fact in admin_client.get(url, query).context["cl"].result_list]

    assert shown() == ["old p"]
    assert shown(q="apple") == []
    assert shown(q="pear") == ["old p"]
    assert shown(q="apple", holds="ended") == ["old p"]
    assert len(shown(holds="all")) == 2
    assert shown(q="the") == []


def test_retracting_is_an_action(admin_client):
    fact = assert_fact("t", "e", "p", "words")
    url = reverse("admin:knowledge_fact_changelist")
    admin_client.post(url, {"action": "retract", "_selected_action": [str(fact.pk)]})
    fact.refresh_from_db()
    assert fact.retracted_at
    assert fact.evidence == {"retraction": "retracted by admin"}


def test_a_model_is_added_with_its_partition(admin_client):
    data = {
        "model_name": "some-model",
        "model_version": "1",
        "dimensions": "3",
        "provider": "openai",
        "state": "paused",
    }
    assert admin_client.post(reverse("admin:knowledge_embeddingmodel_add"), data).status_code == 302
    assert partition_of("some-model")
