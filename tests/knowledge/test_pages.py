"""The search page: what it finds, what it says when it cannot, and whom it lets in."""

import pytest
from django.contrib.auth.models import Permission, User
from django.urls import reverse

from knowledge.embedder import embed_all
from knowledge.facts import assert_fact
from knowledge.models import EmbeddingModel

pytestmark = pytest.mark.django_db
PAGE = "/admin/knowledge/fact/search/"


@pytest.fixture
def facts(db):
    assert_fact("module", "gzip", "describes", "Reads and writes compressed files.")
    assert_fact("module", "gzip", "returns", "A compressed stream.", many=True)
    assert_fact("module", "socket", "describes", "A network interface.")


def found(client, **query):
    answer = client.get(PAGE, query)
    assert answer.status_code == 200
    return answer


def entities(answer):
    return [hit.entity_id for hit in answer.context["found"].hits]


def test_the_page_opens_empty(admin_client):
    assert reverse("admin:knowledge_fact_search") == PAGE
    answer = found(admin_client)
    assert (answer.context["found"], answer.context["problem"]) == (None, None)


def test_words_are_found_and_lead_to_the_fact_and_to_its_entity(admin_client, facts):
    answer = found(admin_client, q="compressed", mode="text")
    assert entities(answer) == ["gzip"]
    page = answer.content.decode()
    assert reverse("admin:knowledge_fact_change", args=[answer.context["found"].hits[0].fact_id]) in page
    assert "1 more found of it" in page


def test_meaning_is_found_where_there_are_vectors(admin_client, facts, model):
    embed_all(model, None, lambda portion: None)
    assert set(entities(found(admin_client, q="anything", mode="semantic"))) == {"gzip", "socket"}


def test_without_vectors_both_means_words_and_the_page_says_so(admin_client, facts, model):
    answer = found(admin_client, q="compressed")
    assert entities(answer) == ["gzip"]
    assert "Searched by words only" in answer.content.decode()


def test_without_vectors_meaning_alone_says_what_to_do(admin_client, facts, model):
    answer = found(admin_client, q="compressed", mode="semantic")
    assert "no fact has a vector" in answer.content.decode()
    assert "manage.py knowledge embed" in answer.content.decode()


def test_a_provider_that_fails_is_named_not_a_broken_page(admin_client, facts, model, provider):
    embed_all(model, None, lambda portion: None)
    from knowledge.errors import ProviderUnavailable

    provider.problem = ProviderUnavailable("the file of the model is gone", "install it again")
    assert "the file of the model is gone" in found(admin_client, q="x", mode="semantic").content.decode()
    assert entities(found(admin_client, q="compressed")) == ["gzip"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"q": ""}, "This field is required"),
        ({"q": "x" * 4_001}, "at most 4000 characters"),
        ({"q": "the of", "mode": "text"}, "has no word to look for"),
        ({"q": "x", "as_of": "yesterday"}, "Enter a valid date/time"),
        ({"q": "x", "mode": "magic"}, "Select a valid choice"),
        ({"q": "a\0b"}, "Null characters are not allowed"),
    ],
)
def test_a_query_that_cannot_be_asked_says_why(admin_client, query, said):
    assert said in found(admin_client, **query).content.decode()


def test_type_and_time_narrow_what_is_found(admin_client, facts):
    assert entities(found(admin_client, q="compressed", mode="text", entity_type="person")) == []
    assert entities(found(admin_client, q="compressed", mode="text", as_of="2020-01-01T00:00")) == []
    assert entities(found(admin_client, q="compressed", mode="text", as_of="2126-01-01T00:00:01")) == ["gzip"]


def test_what_was_found_is_escaped(admin_client):
    assert_fact("module", "<b>x</b>", "describes", "<script>evil</script> compressed")
    page = found(admin_client, q="compressed", mode="text").content.decode()
    assert "<script>evil" not in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page


def test_only_who_may_view_facts_may_search(client, facts):
    user = User.objects.create_user("u", is_staff=True)
    client.force_login(user)
    assert client.get(PAGE, {"q": "compressed"}).status_code == 403
    user.user_permissions.add(Permission.objects.get(codename="view_fact"))
    assert entities(found(client, q="compressed", mode="text")) == ["gzip"]


def test_nobody_is_led_to_the_login(client):
    assert "/admin/login/" in client.get(PAGE).url


def test_the_model_is_not_needed_to_open_the_page(admin_client, django_assert_max_num_queries):
    EmbeddingModel.objects.update(state="paused")
    with django_assert_max_num_queries(3):
        found(admin_client)
