"""The nightly run, pruning, and what doctor, metrics, admin and beat see of them."""

import json
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from celery import current_app
from django.contrib.auth.models import Permission
from django.core.management import call_command
from django.urls import reverse
from django_celery_beat.models import PeriodicTask
from kombu.exceptions import OperationalError

from monitoring import registry
from operators.schedules import declared_schedules
from recovery import catalogue, checks, daily, manifest
from recovery.errors import ToolFailed
from recovery.jobs import daily_backup_job, verify_job
from recovery.models import Backup, TestResult
from recovery.prune import plan_prune, prune
from tests.recovery.conftest import biggest

pytestmark = pytest.mark.django_db
NOW = datetime.now(UTC)
LIST = "/admin/recovery/backup/"


def row(age_days, status="verified", **more):
    """A catalogue row of a backup that is stored nowhere."""
    moment = NOW - timedelta(days=age_days)
    finished = {"completed_at": moment, "size_bytes": 5 << 20, "manifest_sha256": "0" * 64}
    values = {} if status in ("running", "failed") else finished
    if status == "verified":
        values["verified_at"] = moment
    if status in ("failed", "damaged"):
        values["error"] = "it broke"
    sizes = {"database_bytes": 9 << 20, "database_name": "d"}
    backup = Backup(started_at=moment, status=status, **sizes | values | more)
    backup.location = f"logical/{backup.pk}"
    catalogue.save(backup)
    return backup


def stored(age_days, status="verified", **more):
    """The same with a folder and a manifest."""
    backup = row(age_days, status, **more)
    (catalogue.folder_of(backup) / "dump").mkdir(parents=True)
    manifest.write_json(catalogue.folder_of(backup) / manifest.NAME, {})
    return backup


def run(*arguments):
    out = StringIO()
    call_command("backup", *arguments, "--json", stdout=out)
    return json.loads(out.getvalue())


# -- daily --------------------------------------------------------------------------------------------------
@pytest.mark.django_db(transaction=True)
def test_a_daily_run_backs_up_verifies_and_prunes(backup_dir):
    catalogue.make_folders()
    old = stored(40)
    told = run("daily")
    assert [item["status"] for item in told["items"]] == ["verified"]
    assert told["steps"] == [
        {"action": "remove", "object": str(old.pk), "why": told["steps"][0]["why"]},
    ]
    assert not catalogue.folder_of(old).exists()
    assert TestResult.objects.get().test_status == "passed"


def test_a_failed_backup_is_neither_verified_nor_followed_by_pruning(monkeypatch):
    def fail():
        raise ToolFailed("pg_dump ended with 1")

    def never(*_):
        raise AssertionError

    monkeypatch.setattr(daily, "back_up", fail)
    monkeypatch.setattr(daily, "verify", never)
    monkeypatch.setattr(daily, "prune", never)
    with pytest.raises(ToolFailed):
        daily.run_daily()


def test_a_backup_that_turns_out_damaged_is_not_followed_by_pruning(copy, folder, monkeypatch):
    old = stored(40)
    biggest(folder).unlink()
    monkeypatch.setattr(daily, "back_up", lambda: copy)
    day = daily.run_daily()
    assert (day.backup.status, day.steps) == ("damaged", [])
    assert catalogue.is_stored(old)


def test_beat_knows_the_daily_run_and_the_worker_its_limits():
    [found] = [schedule for schedule in declared_schedules() if schedule.name == checks.SCHEDULE]
    assert (found.job, found.crontab) == (daily_backup_job.name, "30 2 * * *")
    assert found.expire_seconds
    for job in (daily_backup_job, verify_job):
        assert job.name in current_app.tasks
        assert job.soft_time_limit < job.time_limit
        queue = current_app.amqp.router.route({}, job.name)["queue"]
        assert queue.name == "tasks", "hours of work must not keep the sweeps waiting"


# -- prune --------------------------------------------------------------------------------------------------
def test_a_dry_run_removes_nothing_and_says_why(backup_dir):
    old, new = stored(40), stored(1)
    told = run("prune", "--dry-run")
    assert {step["object"]: step["action"] for step in told["steps"]} == {
        str(old.pk): "remove",
        str(new.pk): "keep",
    }
    assert told["counts"] == {"to_remove": 1, "kept": 1}
    assert all(step["why"] for step in told["steps"])
    assert catalogue.is_stored(old)


def test_pruning_removes_files_entry_and_row_and_twice_nothing_more(backup_dir):
    old, pinned, new, failed = stored(40), stored(50, is_pinned=True), stored(1), row(31, "failed")
    prune(NOW)
    assert set(Backup.objects.values_list("pk", flat=True)) == {pinned.pk, new.pk}
    assert not catalogue.folder_of(old).exists()
    assert {path.stem for path in (backup_dir / "catalogue").iterdir()} == {str(pinned.pk), str(new.pk)}
    assert failed.pk not in {step.backup_id for step in plan_prune(NOW)}
    assert {step.action for step in prune(NOW)} == {"keep"}


def test_one_that_is_restored_from_stays_until_next_time(backup_dir):
    old, _ = stored(40), stored(1)
    with catalogue.in_use(catalogue.folder_of(old)):
        [step] = [step for step in prune(NOW) if step.backup_id == old.pk]
        assert (step.action, step.why) == ("keep", "somebody restores from it now")
    assert [step.action for step in prune(NOW)] == ["keep", "remove"]


def test_a_verified_row_without_its_folder_does_not_let_others_go(backup_dir):
    row(1)
    kept = stored(40, "complete")
    assert {step.action for step in prune(NOW)} == {"keep"}
    assert catalogue.is_stored(kept)


def test_pins_are_set_and_taken_off_by_the_command(backup_dir):
    old, _ = stored(40), stored(1)
    assert run("pin", str(old.pk))["items"][0]["pinned"] == "yes"
    assert {step.action for step in prune(NOW)} == {"keep"}
    run("pin", str(old.pk), "--off")
    assert {step.action for step in prune(NOW)} == {"keep", "remove"}


def test_the_list_shows_the_newest_first(backup_dir):
    for age, status in ((3, "verified"), (2, "failed"), (1, "complete")):
        row(age, status)
    told = run("list")
    assert [item["status"] for item in told["items"]] == ["complete", "failed", "verified"]
    assert [item["status"] for item in run("list", "--status", "failed")["items"]] == ["failed"]


# -- doctor and metrics -------------------------------------------------------------------------------------
def findings(name):
    [check] = [check for check in registry.checks() if check.name == name]
    return registry.run_check(check)


def metric(name):
    [found] = [found for found in registry.metrics() if found.name == name]
    return list(found.read())


def test_a_fresh_installation_is_in_order_and_says_when_the_first_is_due():
    [found] = findings("recovery.backup")
    assert found.ok, found
    assert "none verified yet, the first is due at" in found.detail
    assert "02:30 UTC" in found.detail


def test_a_schedule_that_is_off_is_told():
    PeriodicTask.objects.filter(name=checks.SCHEDULE).update(enabled=False)
    assert "switched off" in findings("recovery.backup")[0].detail


def test_an_older_installation_without_a_verified_backup_is_not(monkeypatch):
    monkeypatch.setattr(checks, "installed_at", lambda: NOW - timedelta(hours=27))
    row(1, "failed")
    [found] = findings("recovery.backup")
    assert not found.ok
    assert "it broke" in found.detail
    assert "backup daily" in found.hint


@pytest.mark.parametrize(("hours", "is_ok"), [(25.9, True), (26.1, False)])
def test_the_newest_verified_backup_may_be_26_hours_old(hours, is_ok):
    row(hours / 24)
    row(0.01, "complete")
    assert findings("recovery.backup")[0].ok is is_ok


def test_tools_and_space_are_looked_at(settings, tmp_path, backup_dir):
    assert [found.ok for found in findings("recovery.tools") + findings("recovery.space")] == [True, True]
    settings.PG_BIN_DIR = str(tmp_path)
    [found] = findings("recovery.tools")
    assert (found.ok, "PG_BIN_DIR" in found.hint) == (False, True)
    row(1, size_bytes=1 << 50, database_bytes=1)
    assert not findings("recovery.space")[0].ok


def test_metrics_tell_age_size_and_numbers():
    assert metric("mistersmith_backup_verified_age_seconds") == []
    row(1)
    row(2)
    row(0, "failed")
    [(labels, age)] = metric("mistersmith_backup_verified_age_seconds")
    assert labels == {"kind": "logical"}
    assert 86_400 <= age < 86_400 + 600
    assert metric("mistersmith_backup_size_bytes") == [({"kind": "logical"}, 5 << 20)]
    assert {(labels["status"], number) for labels, number in metric("mistersmith_backups")} == {
        ("verified", 2),
        ("failed", 1),
    }


# -- admin --------------------------------------------------------------------------------------------------
@pytest.fixture
def sent(monkeypatch):
    ids = []
    monkeypatch.setattr(verify_job, "delay", ids.append)
    return ids


def post_verify(client, *backups):
    values = {"action": "verify", "_selected_action": [str(backup.pk) for backup in backups]}
    values |= {"confirmed": "yes", "reason": "to be sure"}
    return client.post(LIST, values, follow=True).content.decode()


def test_the_list_shows_status_size_and_age_and_nobody_may_change_it(admin_client):
    backup = row(2)
    page = admin_client.get(LIST).content.decode()
    assert "Verified" in page
    assert "5.0" in page
    assert "2\xa0days" in page
    assert admin_client.get(f"{LIST}add/").status_code == 403
    assert admin_client.post(f"{LIST}{backup.pk}/delete/").status_code == 403


def test_verify_sends_a_job_for_each_finished_one(admin_client, sent):
    finished, failed = row(1, "complete"), row(2, "failed")
    assert "Sent for verification: 1." in post_verify(admin_client, finished, failed)
    assert sent == [str(finished.pk)]


def test_verify_needs_its_permission(client, django_user_model, sent):
    user = django_user_model.objects.create_user("viewer", password="x", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_backup"))
    client.force_login(user)
    backup = row(1, "complete")
    assert "Verify: restore" not in client.get(LIST).content.decode()
    post_verify(client, backup)
    assert sent == []
    user.user_permissions.add(Permission.objects.get(codename="verify_backup"))
    post_verify(client, backup)
    assert sent == [str(backup.pk)]


def test_a_broker_that_is_away_is_told(admin_client, monkeypatch):
    def refuse(_):
        raise OperationalError("connection refused")

    monkeypatch.setattr(verify_job, "delay", refuse)
    assert "broker does not answer" in post_verify(admin_client, row(1, "complete"))


def test_the_page_of_one_backup_opens(admin_client):
    backup = row(1, "damaged")
    page = admin_client.get(reverse("admin:recovery_backup_change", args=[backup.pk])).content.decode()
    assert "it broke" in page
