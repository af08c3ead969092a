"""The cockpit: pictures, plan and apply with a reason, overrides with an audit, archives that come and go."""

import re

import pytest
from django.contrib.auth.models import Permission
from django.urls import reverse
from kombu.exceptions import OperationalError

from operators.models import AuditEntry
from partitions.admin import PolicyForm
from partitions.jobs import apply_run, attach_job, release_job
from partitions.models import Archive, Mark, Policy, Run
from partitions.policies import install_policies
from tests.partitions.conftest import TABLE, make_partition, sql

PLAN = "admin:partitions_policy_plan"


@pytest.fixture
def sent(monkeypatch) -> list[tuple]:
    """What is sent to the broker, instead of sending it."""
    calls: list[tuple] = []
    for job in (apply_run, attach_job, release_job):
        monkeypatch.setattr(job, "delay", lambda *arguments, job=job: calls.append((job, *arguments)))
    return calls


def run_jobs(sent: list[tuple]) -> None:
    while sent:
        job, *arguments = sent.pop(0)
        job(*arguments)


def steps_of(page: str) -> list[str]:
    return re.findall(r'name="step" value="([^"]+)"', page)


def test_the_page_draws_every_table_and_asks_nobody_else(events, admin_client):
    make_partition(-9, 5)
    page = admin_client.get(reverse("admin:partitions_policy_changelist")).content.decode()
    drawn = page[page.index("partition-links") :]
    assert drawn.count("<svg") == Policy.objects.count()
    assert f"{make_partition(-9)}: " in drawn
    assert "days ahead" in drawn
    picture = drawn[drawn.index("<svg") : drawn.rindex("</svg>")]
    assert "style=" not in picture
    assert "<script" not in picture
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', drawn)


def test_a_plan_is_applied_as_it_was_shown_and_no_further(events, admin_client, sent):
    first = make_partition(-9, 5)
    shown = steps_of(admin_client.get(reverse(PLAN)).content.decode())
    assert shown == [f"{action} {first}" for action in ("archive", "detach", "drop")]
    later = make_partition(-8, 5)
    answer = admin_client.post(reverse(PLAN), {"step": shown, "reason": "room is short"})
    run = Run.objects.get(status="requested")
    assert answer.url == reverse("admin:partitions_run_change", args=[run.pk])
    entry = AuditEntry.objects.get(action="partitions.apply")
    assert (entry.actor, entry.reason, entry.objects_touched) == ("admin", "room is short", [first] * 3)
    run_jobs(sent)
    run.refresh_from_db()
    assert (run.status, run.actor, run.reason) == ("done", "admin", "room is short")
    assert [step["status"] for step in run.steps] == ["done"] * 3
    assert sql("SELECT to_regclass(%s) IS NULL, to_regclass(%s) IS NULL", first, later) == [(True, False)]
    page = admin_client.get(answer.url).content.decode()
    assert f"<b>drop {first}</b>: older than 5 days, archived and verified. done" in page


def test_a_plan_without_a_reason_is_not_applied(events, admin_client, sent):
    make_partition(-9)
    answer = admin_client.post(reverse(PLAN), {"step": ["drop x"], "reason": " "})
    assert "This field is required" in answer.content.decode()
    assert not sent
    assert not Run.objects.filter(status="requested").exists()


def test_what_is_not_due_any_more_is_not_asked_for(events, admin_client, sent):
    answer = admin_client.post(reverse(PLAN), {"step": ["drop app.events_2001_01_01"], "reason": "old page"})
    assert answer.url == reverse(PLAN)
    assert not sent


def test_a_broker_that_is_away_is_said(events, admin_client, monkeypatch):
    def away(*_: object) -> None:
        raise OperationalError("nobody there")

    monkeypatch.setattr(apply_run, "delay", away)
    name = make_partition(-9)
    answer = admin_client.post(reverse(PLAN), {"step": [f"archive {name}"], "reason": "x"}, follow=True)
    assert "The broker does not answer: nobody there" in answer.content.decode()


def test_looking_is_one_right_and_applying_another(events, client, django_user_model):
    make_partition(-9)
    viewer = django_user_model.objects.create_user("viewer", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_policy"))
    client.force_login(viewer)
    page = client.get(reverse(PLAN)).content.decode()
    assert "Applying it takes the right" in page
    assert not steps_of(page)
    assert client.post(reverse(PLAN), {"step": ["x"], "reason": "x"}).status_code == 403
    viewer.user_permissions.clear()
    client.force_login(django_user_model.objects.get(pk=viewer.pk))
    assert client.get(reverse(PLAN)).status_code == 403


# -- policies -----------------------------------------------------------------------------------------------
VALUES = {
    "partition_interval": "day",
    "make_ahead_days": 14,
    "keep_days": 90,
    "on_expiry": "archive",
    "reason": "audit",
}


def test_a_policy_is_overridden_with_a_reason_and_follows_its_model_no_more(admin_client, db):
    address = reverse("admin:partitions_policy_change", args=["messages.log"])
    assert "partition_interval day, make_ahead_days 14" in admin_client.get(address).content.decode()
    assert admin_client.post(address, VALUES).status_code == 302
    assert install_policies() == 0
    policy = Policy.objects.get(pk="messages.log")
    assert (policy.keep_days, policy.is_overridden) == (90, True)
    entry = AuditEntry.objects.get(action="partitions.change_policy")
    assert (entry.reason, entry.objects_touched) == ("audit", ["messages.log"])
    assert (entry.details["before"]["keep_days"], entry.details["after"]["keep_days"]) == (30, 90)
    listed = reverse("admin:partitions_policy_changelist")
    answer = {"action": "follow_declaration", "_selected_action": ["messages.log"], "confirmed": "yes"}
    admin_client.post(listed, {**answer, "reason": "back to normal"})
    policy.refresh_from_db()
    assert (policy.keep_days, policy.is_overridden) == (30, False)


def test_an_unchanged_policy_follows_its_model(db):
    Policy.objects.filter(pk="messages.log").update(keep_days=3)
    assert install_policies() == 1
    assert Policy.objects.get(pk="messages.log").keep_days == 30


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"keep_days": 0}, "greater than or equal to 1"),
        ({"make_ahead_days": 0}, "greater than or equal to 1"),
        ({"make_ahead_days": 401}, "less than or equal to 400"),
        ({"partition_interval": "year"}, "not one of the available choices"),
        ({"partition_interval": "hour", "make_ahead_days": 41}, "984: at most 40 days"),
        ({"on_expiry": "drop", "keep_days": ""}, "kept for ever is never dropped"),
        ({"reason": ""}, "required"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_with_what_is_wrong(change, said):
    form = PolicyForm(VALUES | change)
    assert not form.is_valid()
    assert said in str(form.errors)


def test_a_sensible_policy_is_taken():
    assert PolicyForm(VALUES | {"partition_interval": "hour", "make_ahead_days": 40}).is_valid()
    assert PolicyForm(VALUES | {"on_expiry": "keep", "keep_days": ""}).is_valid()


# -- archives -----------------------------------------------------------------------------------------------
def test_an_archive_is_attached_and_released_with_a_reason(events, admin_client, sent):
    from partitions.maintenance import apply_all

    name = make_partition(-9, 5)
    apply_all(tables=[TABLE])
    archive = Archive.objects.get()
    listed = reverse("admin:partitions_archive_changelist")
    for action, marks in (("attach", 1), ("release", 0)):
        chosen = {
            "action": action,
            "_selected_action": [archive.pk],
            "confirmed": "yes",
            "reason": "a question",
        }
        admin_client.post(listed, chosen)
        run_jobs(sent)
        assert Mark.objects.count() == marks
        run = Run.objects.first()
        assert (run.status, run.actor, run.steps[0]["action"]) == ("done", "admin", action)
        assert name in admin_client.get(listed).content.decode()
    assert AuditEntry.objects.filter(action="partitions.attach_archive", reason="a question").exists()


def test_an_attach_that_fails_is_under_runs(events, admin_client, sent):
    from partitions.maintenance import apply_all
    from pg.errors import Refused

    make_partition(-9, 5)
    apply_all(tables=[TABLE])
    make_partition(-9)
    with pytest.raises(Refused):
        attach_job(str(Archive.objects.get().pk), "ada", "why not")
    run = Run.objects.first()
    assert run.status == "failed"
    assert "has the range" in run.error
