import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User

from sessions.lifecycle import authenticate
from sessions.models import Session
from tests.sessions.conftest import open_one

pytestmark = pytest.mark.django_db
LIST = "/admin/agent_sessions/session/"


def text_of(response):
    return response.content.decode()


def test_neither_list_nor_page_shows_the_digest(admin_client):
    _, session_id = open_one(user_id="ann")
    digest = bytes(Session.objects.get(pk=session_id).token_digest)
    pages = [admin_client.get(LIST), admin_client.get(f"{LIST}{session_id}/change/")]
    for page in pages:
        assert page.status_code == 200
        assert "ann" in text_of(page)
        assert "digest" not in text_of(page)
        assert digest.hex() not in text_of(page)


def test_a_session_cannot_be_added_or_changed_by_hand(admin_client):
    token, session_id = open_one()
    assert admin_client.get(f"{LIST}add/").status_code == 403
    assert admin_client.post(f"{LIST}{session_id}/change/", {"user_id": "eve"}).status_code == 403
    assert authenticate(token).user_id == "user"


def test_revoked_sessions_are_gone_and_the_others_stay(admin_client):
    (first, one), (second, _) = (open_one() for _ in range(2))
    answer = admin_client.post(LIST, {"action": "revoke", "_selected_action": [one]}, follow=True)
    assert "1 sessions revoked" in text_of(answer)
    assert authenticate(first) is None
    assert authenticate(second)
    assert LogEntry.objects.get().object_id == str(one)


def test_who_may_only_look_cannot_revoke(client):
    user = User.objects.create_user("viewer", is_staff=True)
    user.user_permissions.add(
        Permission.objects.get(codename="view_session", content_type__app_label="agent_sessions")
    )
    client.force_login(user)
    token, session_id = open_one()
    page = client.get(LIST)
    assert page.status_code == 200
    assert "revoke" not in text_of(page)
    client.post(LIST, {"action": "revoke", "_selected_action": [session_id]})
    assert authenticate(token)


@pytest.mark.parametrize(("state", "found"), [("live", 1), ("expired", 0), ("", 1)])
def test_the_list_is_filtered_by_state(admin_client, state, found):
    open_one()
    assert admin_client.get(LIST, {"state": state}).context["cl"].result_count == found


def test_sessions_are_found_by_user_and_by_id(admin_client):
    _, session_id = open_one(user_id="ann")
    open_one(user_id="anna")
    for text in ("ann", str(session_id)):
        listed = admin_client.get(LIST, {"q": text}).context["cl"]
        assert [session.pk for session in listed.result_list] == [session_id]
