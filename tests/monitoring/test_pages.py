"""What probes and scrapers get, and who gets it."""

import pytest
from django.contrib.auth.models import Permission, User
from prometheus_client.parser import text_string_to_metric_families

from monitoring import registry
from monitoring.registry import Check, Finding, Metric

pytestmark = pytest.mark.django_db


@pytest.fixture
def gates(monkeypatch):
    found = {}
    monkeypatch.setattr(registry, "_checks", found)

    def add(name, *findings, gates_ready=True):
        found[name] = Check(name, lambda: findings, gates_ready)

    return add


def test_healthz_asks_no_server(client, django_assert_num_queries):
    with django_assert_num_queries(0):
        assert client.get("/healthz").content == b"ok\n"


def test_readyz_says_yes_here(client):
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (200, True)
    assert {"cockpit.postgres", "cockpit.migrations"} <= {item["check"] for item in answer.json()["checks"]}


def test_readyz_says_no_with_the_reason(client, gates):
    gates("a.good", Finding(True, "fine"))
    gates("a.bad", Finding(False, "secret host is down", "start it"))
    gates("a.other", Finding(False, "not asked"), gates_ready=False)
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (503, False)
    assert answer.json()["checks"] == [
        {"check": "a.bad", "ok": False, "detail": "secret host is down", "hint": "start it"},
        {"check": "a.good", "ok": True, "detail": "fine", "hint": ""},
    ]
    from_outside = client.get("/readyz", REMOTE_ADDR="192.0.2.1")
    assert from_outside.json()["checks"] == [{"check": "a.bad", "ok": False}, {"check": "a.good", "ok": True}]


def test_readyz_without_any_check_is_not_ready(client, gates):
    assert client.get("/readyz").status_code == 503


def test_a_check_that_breaks_is_not_ready(client, monkeypatch):
    def fail():
        raise ZeroDivisionError

    monkeypatch.setattr(registry, "_checks", {"a.b": Check("a.b", fail, True)})
    assert client.get("/readyz").status_code == 503


# -- metrics ------------------------------------------------------------------------------------------------
def families(answer):
    return {family.name: family for family in text_string_to_metric_families(answer.content.decode())}


def test_metrics_of_every_room_are_there_and_none_fails(client):
    found = families(client.get("/metrics"))
    assert {metric.name for metric in registry.metrics()} <= set(found)
    errors = {sample.labels["metric"]: sample.value for sample in found["mistersmith_metric_errors"].samples}
    assert set(errors.values()) == {0.0}
    assert set(errors) == {metric.name for metric in registry.metrics()}


def test_a_metric_that_fails_hides_no_other(client, monkeypatch):
    def fail():
        yield {"a": "1"}, 1.0
        raise ZeroDivisionError

    odd = {"quote": 'a"b\\c\nd'}
    metrics = {"bad": Metric("bad", "", fail), "good": Metric("good", "", lambda: [(odd, 7.0)])}
    monkeypatch.setattr(registry, "_metrics", metrics)
    found = families(client.get("/metrics"))
    assert found["good"].samples[0].value == 7.0
    assert found["good"].samples[0].labels == odd
    assert not found["bad"].samples
    assert {s.labels["metric"]: s.value for s in found["mistersmith_metric_errors"].samples} == {
        "bad": 1,
        "good": 0,
    }


def test_openmetrics_for_who_asks_for_it(client):
    answer = client.get("/metrics", HTTP_ACCEPT="application/openmetrics-text; version=1.0.0")
    assert "openmetrics" in answer["Content-Type"]
    assert answer.content.endswith(b"# EOF\n")


@pytest.mark.parametrize(
    ("token", "production", "request_meta", "status"),
    [
        ("", False, {}, 200),
        ("", False, {"REMOTE_ADDR": "192.0.2.1"}, 401),
        ("", False, {"REMOTE_ADDR": ""}, 401),
        ("", False, {"HTTP_X_FORWARDED_FOR": "192.0.2.1"}, 401),
        ("", True, {}, 401),
        ("secret", False, {}, 401),
        ("secret", True, {"REMOTE_ADDR": "192.0.2.1", "HTTP_AUTHORIZATION": "Bearer secret"}, 200),
        ("secret", False, {"HTTP_AUTHORIZATION": "Bearer secreT"}, 401),
        ("secret", False, {"HTTP_AUTHORIZATION": "Bearer sécret"}, 401),
        ("secret", False, {"HTTP_AUTHORIZATION": "secret"}, 401),
    ],
)
def test_who_may_see_metrics(client, settings, token, production, request_meta, status):
    settings.METRICS_TOKEN, settings.PRODUCTION = token, production
    assert client.get("/metrics", **request_meta).status_code == status


@pytest.mark.parametrize("page", ["healthz", "readyz", "metrics"])
def test_pages_are_for_looking_and_are_not_kept(client, page):
    assert client.post(f"/{page}").status_code == 405
    assert "no-store" in client.get(f"/{page}")["Cache-Control"]


# -- the admin ----------------------------------------------------------------------------------------------
RULES = "/admin/monitoring/alarmrule/"
VALID = {"name": "r", "metric": "mistersmith_outbox_rows", "labels": "{}", "direction": "above", "warning": "1",
         "critical": "2", "clear_margin": "0", "hold_seconds": "0"}  # fmt: skip


def test_a_rule_is_made_in_the_admin(admin_client):
    assert admin_client.post(f"{RULES}add/", VALID).status_code == 302


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metric": "nothing"}, "no such metric"),
        ({"warning": "", "critical": ""}, "Give a warning"),
        ({"warning": "3"}, "must come before"),
        ({"direction": "below"}, "must come before"),
        ({"clear_margin": "-1"}, "Must be 0 or more"),
        ({"hold_seconds": "86401"}, "at most 86400"),
        ({"labels": '{"a": 1}'}, "object of texts"),
        ({"labels": "[]"}, "object of texts"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_in_words(admin_client, change, said):
    if change == {"labels": "[]"}:
        change = {"labels": '["a"]'}
    page = admin_client.post(f"{RULES}add/", VALID | change)
    assert page.status_code == 200
    assert said in page.content.decode()


def test_who_may_only_look_cannot_silence(client):
    from monitoring.models import AlarmRule

    user = User.objects.create_user("viewer", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_alarmrule"))
    client.force_login(user)
    rule = AlarmRule.objects.get(name="tasks wait")
    assert b"silence_hour" not in client.get(RULES).content
    client.post(
        RULES,
        {"action": "silence_hour", "_selected_action": [rule.pk], "confirmed": "yes", "reason": "because"},
    )
    rule.refresh_from_db()
    assert rule.silenced_until is None


def test_silence_from_the_admin(admin_client):
    from monitoring.models import AlarmRule

    rule = AlarmRule.objects.get(name="tasks wait")
    chosen = {"action": "silence_day", "_selected_action": [rule.pk], "confirmed": "yes", "reason": "known"}
    assert b"are silent for 1 day" in admin_client.post(RULES, chosen, follow=True).content
    rule.refresh_from_db()
    assert rule.silence_reason == "known"


def test_metrics_of_one_scrape_share_what_they_ask_and_the_next_one_asks_anew(client, monkeypatch):
    asked = []
    read = registry.shared(lambda: asked.append(1) or len(asked))
    metrics = {name: Metric(name, "", lambda: [({}, read())]) for name in ("one", "other")}
    monkeypatch.setattr(registry, "_metrics", metrics)
    for turn in (1, 2):
        found = families(client.get("/metrics"))
        assert [found[name].samples[0].value for name in metrics] == [turn, turn]
    assert (read(), read()) == (3, 4), "outside of a scrape nothing is kept"
