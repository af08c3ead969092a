import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.utils import timezone

from agents.models import Agent
from messaging.models import Channel, Delivery, Message, Subscription

pytestmark = pytest.mark.django_db


@pytest.fixture
def story():
    """A message from `ann` to `bob` and what became of it, and a channel that `bob` listens to."""
    ann, bob = (Agent.objects.create(agent_type="worker", agent_name=name) for name in ("ann", "bob"))
    channel = Channel.objects.create(channel_name="news", channel_type="topic")
    Subscription.objects.create(agent=bob, channel=channel)
    message = Message.objects.create(from_agent=ann, to_agent=bob, message_type="command", subject="go")
    Delivery.objects.create(message=message, agent=bob)
    return message


def text_of(response):
    assert response.status_code == 200
    return response.content.decode()


@pytest.mark.parametrize("name", ["channel", "subscription", "message", "delivery"])
def test_list_and_page_of_each_model_are_shown(admin_client, story, name):
    model = {"channel": Channel, "subscription": Subscription, "message": Message, "delivery": Delivery}[name]
    row = model.objects.get()
    assert str(row.pk) in text_of(admin_client.get(f"/admin/messaging/{name}/"))
    text_of(admin_client.get(f"/admin/messaging/{name}/{row.pk}/change/"))


@pytest.mark.parametrize("name", ["channel", "subscription"])
def test_channels_and_subscriptions_can_be_added(admin_client, name):
    text_of(admin_client.get(f"/admin/messaging/{name}/add/"))


def test_a_channel_is_switched_off(admin_client, story):
    channel = Channel.objects.get()
    form = {"channel_name": "news", "channel_type": "topic", "configuration": "{}", "description": ""}
    assert admin_client.post(f"/admin/messaging/channel/{channel.pk}/change/", form).status_code == 302
    channel.refresh_from_db()
    assert not channel.is_active


def test_the_log_needs_the_same_queries_for_one_message_as_for_many(
    admin_client, story, django_assert_max_num_queries
):
    for _ in range(20):
        Message.objects.create(from_agent=story.from_agent, to_agent=story.to_agent, message_type="command")
    with django_assert_max_num_queries(6):  # session, user, estimate, count, page, filter
        text_of(admin_client.get("/admin/messaging/message/"))


def test_an_agent_s_messages_are_found_by_its_id(admin_client, story):
    Message.objects.create(message_type="heartbeat")
    for agent in (story.from_agent, story.to_agent):
        listed = admin_client.get("/admin/messaging/message/", {"q": str(agent.pk)}).context["cl"]
        assert [message.pk for message in listed.result_list] == [story.pk]


def test_a_new_delivery_is_due_at_once(story):
    delivery = Delivery.objects.get()
    assert delivery.state == "pending"
    assert delivery.next_at <= timezone.now()
    assert abs((delivery.created_at - delivery.next_at).total_seconds()) < 5


# -- actions --------------------------------------------------------------------------------------------------
@pytest.fixture
def viewer(client):
    user = User.objects.create_user("viewer", is_staff=True)
    wanted = Permission.objects.filter(
        content_type__app_label="messaging", codename__in=["view_channel", "view_delivery"]
    )
    user.user_permissions.set(wanted)
    client.force_login(user)
    return client


def press(client, model, action, row):
    page = f"/admin/messaging/{model}/"
    return client.post(page, {"action": action, "_selected_action": [row.pk]}, follow=True)


def test_channels_are_closed_and_opened_and_each_change_is_logged(admin_client, story):
    channel = Channel.objects.get()
    assert "1 channels closed" in text_of(press(admin_client, "channel", "close", channel))
    assert not Channel.objects.get().is_active
    assert "0 channels closed" in text_of(press(admin_client, "channel", "close", channel))
    assert "1 channels opened" in text_of(press(admin_client, "channel", "reopen", channel))
    assert LogEntry.objects.count() == 2


def test_dead_deliveries_are_sent_again_and_others_stay(admin_client, story):
    waiting = Delivery.objects.get()
    assert "1 were not dead" in text_of(press(admin_client, "delivery", "redrive_selected", waiting))
    Delivery.objects.update(state="failed", next_at=None, error="broken")
    assert "1 sent again" in text_of(press(admin_client, "delivery", "redrive_selected", waiting))
    assert Delivery.objects.get().state == "pending"
    assert LogEntry.objects.get().object_id == str(waiting.pk)


def test_who_may_only_look_cannot_act(viewer, story):
    Delivery.objects.update(state="failed", next_at=None, error="broken")
    press(viewer, "delivery", "redrive_selected", Delivery.objects.get())
    press(viewer, "channel", "close", Channel.objects.get())
    assert Delivery.objects.get().state == "failed"
    assert Channel.objects.get().is_active
