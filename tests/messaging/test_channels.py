from uuid import uuid4

import pytest
from django.db import connection

from agents.errors import UnknownAgent
from agents.registry import terminate_agent
from messaging.channels import create_channel, set_active, subscribe, unsubscribe
from messaging.errors import ChannelRefused, UnknownChannel
from messaging.models import Channel, Subscription

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("pattern", "subject", "fits"),
    [
        (None, "a.b", True),
        (None, None, True),
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.b", "a", False),
        ("a.b", "a.b.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("*", "a", True),
        ("*", "a.b", False),
        ("*.b", "a.b", True),
        ("*.*", "a.b", True),
        ("a.*.c", "a.b.c", True),
        ("a.*.c", "a.b.d", False),
        (">", "a", True),
        (">", "a.b.c", True),
        (">", None, False),
        ("a.>", "a.b", True),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("a.>", "b.c", False),
        ("*.>", "a.b", True),
        ("a.*.>", "a.b", False),
        ("a.*.>", "a.b.c", True),
        ("%.b", "a.b", False),
        ("a", "A", False),
    ],
)
def test_a_pattern_fits_as_in_nats(pattern, subject, fits):
    with connection.cursor() as cursor:
        cursor.execute("SELECT messages.subject_matches(%s, %s)", [pattern, subject])
        assert cursor.fetchone() == (fits,)


@pytest.mark.parametrize("pattern", ["", "a..b", ".a", "a.", "a.>.b", "a*", "a b", ">a", "x" * 256])
def test_a_pattern_that_could_fit_nothing_is_refused(ann, pattern):
    create_channel("news", "topic")
    with pytest.raises(ChannelRefused, match="pattern"):
        subscribe(ann.pk, "news", pattern=pattern)
    assert not Subscription.objects.exists()


def test_the_longest_pattern_is_stored(ann):
    create_channel("news", "topic")
    subscribe(ann.pk, "news", pattern="x" * 255)


@pytest.mark.parametrize("kind", Channel.Kind.values)
def test_each_kind_is_created_once(kind):
    assert create_channel("one", kind) == create_channel("one", kind, description="again")
    assert Channel.objects.get().channel_type == kind


@pytest.mark.parametrize(
    ("name", "kind"), [("", "topic"), ("x" * 256, "topic"), ("a", "tube"), ("taken", "queue")]
)
def test_a_channel_that_breaks_a_rule_is_refused(name, kind):
    create_channel("taken", "topic")
    with pytest.raises(ChannelRefused):
        create_channel(name, kind)
    assert Channel.objects.count() == 1


def test_subscribing_again_replaces_the_filters(ann):
    create_channel("news", "topic")
    first = subscribe(ann.pk, "news", pattern="a.>", filters={"x": 1})
    first.is_active = False
    first.save()
    again = subscribe(ann.pk, "news", pattern="a.>", filters={"x": 2})
    assert (again.pk, again.filters, again.is_active) == (first.pk, {"x": 2}, True)
    assert subscribe(ann.pk, "news") == subscribe(ann.pk, "news")
    assert Subscription.objects.count() == 2


def test_unknown_and_terminated_agents_and_unknown_channels_are_refused(ann):
    with pytest.raises(UnknownChannel):
        subscribe(ann.pk, "nowhere")
    create_channel("news", "topic")
    with pytest.raises(UnknownAgent):
        subscribe(uuid4(), "news")
    terminate_agent(ann.pk)
    with pytest.raises(ChannelRefused, match="terminated"):
        subscribe(ann.pk, "news")


def test_unsubscribing_ends_one_pattern_or_all(ann):
    create_channel("news", "topic")
    for pattern in ("a", "b", None):
        subscribe(ann.pk, "news", pattern=pattern)
    assert unsubscribe(ann.pk, "news", pattern="a") == 1
    assert unsubscribe(ann.pk, "news") == 2
    assert unsubscribe(ann.pk, "news") == 0


def test_a_direct_channel_has_one_subscriber_and_can_move(ann, bob):
    create_channel("desk", "direct")
    subscribe(ann.pk, "desk")
    subscribe(ann.pk, "desk", pattern="a")
    with pytest.raises(ChannelRefused, match="one subscriber"):
        subscribe(bob.pk, "desk")
    unsubscribe(ann.pk, "desk")
    subscribe(bob.pk, "desk")


def test_closing_and_opening_twice_changes_nothing_more():
    create_channel("news", "topic")
    assert [set_active("news", value).is_active for value in (False, False, True, True)] == [
        False,
        False,
        True,
        True,
    ]
    with pytest.raises(UnknownChannel):
        set_active("nowhere", False)
