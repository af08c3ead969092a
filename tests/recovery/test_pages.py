"""The catalogue in the admin: the picture, what can be ordered and by whom, a plan before anything is done."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from django.contrib.auth.models import Permission, User
from django.urls import reverse

from operators.models import AuditEntry
from recovery import orders
from recovery.continuity import look_at_archive
from recovery.models import ArchiveState, Backup
from recovery.picture import WIDTH, draw
from tests.recovery.story import HAS_INCREMENTAL

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
LIST = reverse("admin:recovery_backup_changelist")
ORDER, PLAN = reverse("admin:recovery_backup_order"), reverse("admin:recovery_backup_plan")
STORE, STORED = reverse("admin:recovery_upload_order"), reverse("admin:recovery_upload_changelist")


@pytest.fixture
def sent(monkeypatch):
    """What was sent to the workers, instead of sending it."""
    found = []
    for name in (
        "logical_backup_job", "back_up_server_job", "drill_job", "verify_job", "fetch_job", "rekey_job",
        "repair_store_job",
    ):  # fmt: skip
        job = type(
            "Job",
            (),
            {"delay": staticmethod(lambda *given, _name=name, **named: found.append((_name, given, named)))},
        )
        monkeypatch.setattr(orders, name, job)
    return found


@pytest.fixture
def operator(client, db):
    """A user of the staff who may do what the test grants."""
    user = User.objects.create_user("op", password="x", is_staff=True)
    client.force_login(user)

    def grant(*names):
        user.user_permissions.add(
            *Permission.objects.filter(codename__in=names, content_type__app_label="recovery")
        )
        return client

    return grant


def test_the_list_shows_chains_window_and_gaps(story, admin_client):
    look_at_archive()
    page = admin_client.get(LIST).content.decode()
    assert page.count("<circle") == 2
    assert page.count('class="link"') == int(HAS_INCREMENTAL)
    assert "any moment from" in page
    assert 'class="gap"' not in page
    story.segment_of(story.moments["middle"].lsn).unlink()
    look_at_archive()
    page = admin_client.get(LIST).content.decode()
    assert 'class="gap"' in page
    assert "missing" in page
    assert "Last proven never" in page


def test_the_list_opens_without_any_backup(admin_client):
    assert "No base backup yet" in admin_client.get(LIST).content.decode()


@pytest.mark.parametrize(("what", "job"), [
    ("logical", ("logical_backup_job", (), {})), ("base", ("back_up_server_job", (), {})),
    ("incremental", ("back_up_server_job", (), {"incremental": True})), ("drill", ("drill_job", (), {})),
])  # fmt: skip
def test_what_is_ordered_is_sent_and_in_the_audit(operator, sent, what, job):
    client = operator("make_backup", "view_backup")
    answer = client.post(ORDER, {"what": what, "reason": "before the move"})
    assert answer.status_code == 302
    assert sent == [job]
    entry = AuditEntry.objects.get()
    assert (entry.actor, entry.action, entry.reason) == ("op", f"recovery.{what}", "before the move")


def test_without_a_reason_or_the_permission_nothing_is_sent(operator, sent):
    client = operator("view_backup")
    assert client.post(ORDER, {"what": "base", "reason": "x"}).status_code == 403
    operator("make_backup")
    assert client.post(ORDER, {"what": "base", "reason": "  "}).status_code == 200
    assert sent == []
    assert AuditEntry.objects.count() == 0


def act(client, action, backup, **more):
    return client.post(LIST, {"action": action, "_selected_action": [str(backup.pk)], **more}, follow=True)


def test_a_pin_asks_why_and_is_kept(story, admin_client):
    backup = Backup.objects.get(pk=story.backups["base"].pk)
    assert "Why?" in act(admin_client, "pin", backup).content.decode()
    assert not Backup.objects.get(pk=backup.pk).is_pinned
    act(admin_client, "pin", backup, confirmed="yes", reason="the audit wants it")
    assert Backup.objects.get(pk=backup.pk).is_pinned
    assert AuditEntry.objects.get().action == "recovery.pin"
    act(admin_client, "unpin", backup, confirmed="yes", reason="done")
    assert not Backup.objects.get(pk=backup.pk).is_pinned


def test_verification_is_sent_for_finished_ones(story, admin_client, sent):
    act(
        admin_client,
        "verify",
        Backup.objects.get(pk=story.backups["base"].pk),
        confirmed="yes",
        reason="curious",
    )
    assert [name for name, _, _ in sent] == ["verify_job"]


def test_a_restore_is_planned_or_refused_on_the_page(story, operator):
    client = operator("view_backup")
    page = client.get(PLAN, {"time": story.moments["late"].time.isoformat()}).content.decode()
    assert "WAL segments are there without a gap" in page
    assert "manage.py backup restore --target-directory DIR --time" in page
    assert "cannot be reached" in client.get(PLAN, {"time": "2999-01-01T00:00:00+00:00"}).content.decode()


# -- the store ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("what", "job"), [("repair_store", "repair_store_job"), ("rekey", "rekey_job")])
def test_the_store_is_repaired_and_encrypted_anew_from_the_page(operator, sent, what, job):
    client = operator("repair_store", "view_upload")
    assert "Repair or encrypt anew" in client.get(STORED).content.decode()
    assert client.post(STORE, {"what": what, "reason": "a disk failed"}).status_code == 302
    assert sent == [(job, (), {})]
    entry = AuditEntry.objects.get()
    assert (entry.actor, entry.action, entry.reason) == ("op", f"recovery.{what}", "a disk failed")


def test_the_store_is_not_changed_without_the_permission_a_reason_or_by_another_order(operator, sent):
    client = operator("make_backup", "view_upload")
    assert "Repair or encrypt anew" not in client.get(STORED).content.decode()
    assert client.post(STORE, {"what": "rekey", "reason": "x"}).status_code == 403
    operator("repair_store")
    assert client.post(STORE, {"what": "rekey", "reason": " "}).status_code == 200
    assert client.post(STORE, {"what": "base", "reason": "x"}).status_code == 200
    assert sent == []
    assert AuditEntry.objects.count() == 0


def test_backups_that_the_store_has_are_sent_to_be_fetched(story, operator, sent):
    base, other = (Backup.objects.get(pk=story.backups[name].pk) for name in ("base", "incremental"))
    Backup.objects.filter(pk=base.pk).update(stored_at=NOW)
    client = operator("view_backup")
    both = {
        "_selected_action": [str(base.pk), str(other.pk)],
        "confirmed": "yes",
        "reason": "the disk is new",
    }
    client.post(LIST, {"action": "fetch", **both})
    assert sent == [], "without the permission there is no such action"
    operator("fetch_backup")
    client.post(LIST, {"action": "fetch", **both})
    assert sent == [("fetch_job", (str(base.pk),), {})]
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.reason, entry.objects_touched) == (
        "recovery.fetch",
        "the disk is new",
        [str(base.pk)],
    )


# -- the picture, by itself ---------------------------------------------------------------------------------
def backup(number, hours_ago, parent=None, **given):
    ended = NOW - timedelta(hours=hours_ago)
    return Backup(pk=UUID(int=number), kind="incremental" if parent else "base", status="verified", started_at=ended,
                  completed_at=ended, parent_id=UUID(int=parent) if parent else None, **given)  # fmt: skip


def test_a_chain_has_a_row_of_its_own_and_time_goes_to_the_right():
    found = [backup(1, 48), backup(2, 24, parent=1), backup(3, 12)]
    state = ArchiveState(last_commit_at=NOW - timedelta(hours=1))
    picture = draw(found, state, [], {UUID(int=1), UUID(int=3)}, NOW)
    first, second, third = picture.marks
    assert first.y == second.y > third.y
    assert 0 < first.x < second.x < third.x < WIDTH
    assert (first.radius, second.radius) == (7, 4)
    assert (picture.window.x1, picture.window.x2) == (first.x, picture.x(NOW - timedelta(hours=1)))


def test_without_an_archive_there_is_no_window():
    assert draw([backup(1, 48)], None, [], {UUID(int=1)}, NOW).window is None
    assert draw([], None, [], set(), NOW) is None
