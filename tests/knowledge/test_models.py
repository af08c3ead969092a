"""Models as people see them: the command's verbs, doctor, metrics, the admin."""

import json
import re
from datetime import timedelta
from io import StringIO

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.urls import reverse
from django.utils import timezone

from knowledge import checks, providers, stats
from knowledge.claims import Claim
from knowledge.embeddings import find_model, partition_of
from knowledge.errors import ProviderUnavailable
from knowledge.facts import assert_facts
from knowledge.models import Embedding, EmbeddingModel, Fact
from monitoring.registry import checks as registered_checks
from monitoring.registry import metrics

pytestmark = pytest.mark.django_db
MINILM, ADA = "all-MiniLM-L6-v2", "text-embedding-ada-002"


def run(*arguments):
    out = StringIO()
    call_command("knowledge", *arguments, "--json", stdout=out)
    return json.loads(out.getvalue())


@pytest.fixture
def notes(model):
    assert_facts([Claim("note", f"n{number}", "about", f"it is number {number}") for number in range(70)])


def rows():
    return {row["model"]: row for row in run("models")["items"]}


# -- the command --------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("notes")
def test_embed_makes_what_waits(capsys, monkeypatch):
    monkeypatch.setattr("knowledge.management.commands.knowledge.PROGRESS_SECONDS", 0)
    assert run("embed", "--dry-run")["counts"] == {"waiting": 70}
    assert not Embedding.objects.exists()
    counts = run("embed", "--limit", "64")["counts"]
    assert (counts["added"], counts["refused"]) == (64, 0)
    assert "64 of 70 facts" in capsys.readouterr().err
    answer = run("embed")
    assert (answer["counts"]["added"], answer["items"][0]["finished"]) == (6, True)
    assert run("embed")["counts"]["added"] == 0


@pytest.mark.usefixtures("notes")
def test_an_interruption_keeps_what_is_done(monkeypatch, provider):
    compute = type(provider).compute

    def interrupt(self, texts):
        if self.calls:
            raise KeyboardInterrupt
        return compute(self, texts)

    monkeypatch.setattr(type(provider), "compute", interrupt)
    with pytest.raises(SystemExit) as caught:
        run("embed")
    assert caught.value.code == 1
    assert Embedding.objects.count() == 64


def test_embed_without_the_model_ends_with_2_and_a_hint(provider):
    assert_facts([Claim("note", "one", "about", "three little words")])
    provider.problem = ProviderUnavailable("the model is not installed", "install it")
    with pytest.raises(CommandError, match="the model is not installed\nHINT: install it") as caught:
        run("embed")
    assert caught.value.returncode == 2


@pytest.mark.parametrize("limit", ["0", "-1", "many"])
def test_a_limit_is_a_number_from_1(limit, capsys):
    with pytest.raises(SystemExit):
        run("embed", "--limit", limit)
    assert "--limit" in capsys.readouterr().err


@pytest.mark.usefixtures("notes")
def test_models_shows_how_far_each_is():
    before = rows()["three"]
    assert (before["waiting"], before["vectors"], before["default"]) == ("70", 0, "default")
    run("embed")
    after = rows()
    assert after["three"]["waiting"] == "0"
    assert "one by one" in after["three"]["index"]
    assert "EMBEDDINGS_API_KEY is not set" in after[ADA]["problem"]
    assert (after[ADA]["state"], after[ADA]["waiting"]) == ("paused", "0")


def test_more_than_can_be_counted_is_said_to_be_more(model, monkeypatch):
    assert_facts([Claim("note", f"n{number}", "about", "three little words") for number in range(3)])
    monkeypatch.setattr(stats, "MAX_WAITING_COUNTED", 3)
    assert rows()["three"]["waiting"] == "3+"


@pytest.mark.usefixtures("notes")
def test_reembed_fills_a_model_and_then_lets_searches_use_it(counting):
    other = EmbeddingModel(model_name="other", model_version="1", dimensions=4, provider="counting")
    other.save()
    providers.register_provider("counting", FourNumbers)
    steps = run("reembed", "other", "--dry-run")["steps"]
    assert [step["action"] for step in steps] == ["embed", "index", "default"]
    assert find_model().pk == "three"
    answer = run("reembed", "other")
    assert (answer["items"][0]["is_default"], answer["counts"]["added"]) == (True, 70)
    assert find_model().pk == "other"
    assert run("search", "number")["items"]
    assert [step["action"] for step in run("retire", "three", "--dry-run")["steps"]] == ["drop"]
    assert run("retire", "three")["steps"]
    assert run("retire", "three")["steps"] == []
    assert (rows()["three"]["state"], rows()["three"]["index"]) == ("retired", "no partition")


class FourNumbers(providers.Provider):
    def check(self):
        pass

    def compute(self, texts):
        return [[1.0, 2.0, 3.0, float(len(text))] for text in texts]


@pytest.mark.usefixtures("notes")
def test_reembed_with_a_version_makes_all_vectors_anew():
    run("embed")
    assert run("reembed", "--version", "2")["counts"]["added"] == 70
    assert set(Embedding.objects.values_list("embedding_version", flat=True)) == {"2"}


def test_reembed_by_a_model_that_cannot_changes_nothing(model):
    with pytest.raises(CommandError, match="EMBEDDINGS_API_KEY is not set"):
        run("reembed", ADA)
    assert EmbeddingModel.objects.get(pk=ADA).state == "paused"


def test_the_default_is_not_retired(model):
    with pytest.raises(CommandError, match="searches use it"):
        run("retire", "three")
    assert partition_of(model)


@pytest.mark.parametrize("verb", ["retire", "reembed"])
def test_an_unknown_model_ends_with_2(verb):
    with pytest.raises(CommandError, match="nothing: no such model") as caught:
        run(verb, "nothing")
    assert caught.value.returncode == 2


# -- doctor and metrics -------------------------------------------------------------------------------------
def only(model):
    EmbeddingModel.objects.exclude(pk=model.pk).update(state="paused")
    (finding,) = checks.look_at_vectors()
    return finding


def test_the_check_and_the_metrics_are_registered():
    assert "knowledge.vectors" in {check.name for check in registered_checks()}
    names = {metric.name for metric in metrics()}
    assert names >= {"mistersmith_knowledge_waiting_facts", "mistersmith_knowledge_vectors"}


def test_doctor_is_content_where_nothing_waits(model):
    assert (only(model).ok, only(model).detail) == (True, "three: no fact waits for a vector")


def test_doctor_says_what_makes_vectors_impossible(model, provider):
    provider.problem = ProviderUnavailable("the model is not installed", "install it")
    finding = only(model)
    assert not finding.ok
    assert finding.detail == "three: the model is not installed; search compares words only"
    assert finding.hint == "install it; or pause the model in the admin"


def test_a_paused_model_is_nobodys_problem(model, provider):
    provider.problem = ProviderUnavailable("the model is not installed")
    EmbeddingModel.objects.update(state="paused")
    assert list(checks.look_at_vectors()) == []


def test_doctor_reports_facts_that_wait_and_nobody_serves(model):
    assert_facts([Claim("note", name, "about", "three little words") for name in ("old", "new")])
    assert only(model).ok, "they came just now"
    long_ago = timezone.now() - checks.STUCK_AFTER - timedelta(hours=1)
    Fact.objects.update(created_at=long_ago)
    finding = only(model)
    assert not finding.ok
    assert "are a worker and beat up?" in finding.hint
    Embedding.objects.create(
        fact=Fact.objects.get(entity_id="new"),
        embedding_model=model,
        embedding_version="1",
        embedding_vector=[1.0, 0.0, 0.0],
        text_content="x",
    )
    assert only(model).ok, "others are getting theirs"


@pytest.mark.usefixtures("notes")
def test_metrics_show_waiting_facts_and_vectors(model):
    EmbeddingModel.objects.exclude(pk=model.pk).update(state="paused")
    assert checks.read_waiting_facts() == [({"model": "three"}, 70.0)]
    assert {labels["model"] for labels, _ in checks.read_vectors()} == {"three", MINILM, ADA}


def test_a_retired_model_needs_no_partition(model):
    run("reembed", MINILM)
    run("retire", "three")
    assert all(finding.ok for finding in checks.look_at_models())


# -- the admin ----------------------------------------------------------------------------------------------
LIST = "admin:knowledge_embeddingmodel_changelist"
CHANGE = "admin:knowledge_embeddingmodel_change"


@pytest.mark.usefixtures("notes")
def test_the_list_shows_progress_and_problems(admin_client, provider):
    page = admin_client.get(reverse(LIST)).content.decode()
    assert re.search(r'"field-waiting[^>]*>\s*70\s*<', page)
    assert "EMBEDDINGS_API_KEY is not set" in page
    provider.problem = ProviderUnavailable("the model is not installed", "install it")
    assert "the model is not installed: install it" in admin_client.get(reverse(LIST)).content.decode()


def test_a_model_is_paused_and_its_version_changed(admin_client, model):
    EmbeddingModel.objects.update(caught_up_at=timezone.now())
    data = {"model_version": "2", "provider": "counting", "is_default": "on", "state": "paused"}
    assert admin_client.post(reverse(CHANGE, args=["three"]), data).status_code == 302
    model.refresh_from_db()
    assert (model.model_version, model.state, model.caught_up_at) == ("2", "paused", None)


@pytest.mark.parametrize("wrong", [{"state": "retired"}, {"provider": "nobody"}])
def test_what_the_form_does_not_offer_is_refused(admin_client, model, wrong):
    data = {"model_version": "1", "provider": "counting", "state": "paused", **wrong}
    assert admin_client.post(reverse(CHANGE, args=["three"]), data).status_code == 200
    model.refresh_from_db()
    assert model.state == "active"


def test_a_retired_model_is_only_looked_at(admin_client):
    EmbeddingModel.objects.filter(pk=ADA).update(state="retired")
    page = admin_client.get(reverse(CHANGE, args=[ADA]))
    assert page.status_code == 200
    assert b'name="_save"' not in page.content


def test_a_viewer_sees_the_model_and_changes_nothing(client, model):
    viewer = User.objects.create_user("viewer", password="x", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_embeddingmodel"))
    client.force_login(viewer)
    page = client.get(reverse(CHANGE, args=["three"]))
    assert page.status_code == 200
    assert b'<input type="text"' not in page.content
    assert b"<select" not in page.content
