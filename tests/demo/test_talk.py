"""The demo's agents tell each other what they do."""

import pytest

from demo.fleet import gather_fleet
from demo.modules import find_module
from demo.run import Watch, start_plan
from demo.talk import announce_package, announce_plan, read_mail
from messaging.models import Delivery, Message
from tests.demo.test_story import work

pytestmark = pytest.mark.django_db


def test_the_plan_is_told_to_every_reader_and_packages_to_the_planner():
    fleet = gather_fleet()
    start_plan(fleet, modules=["json", "getopt"])
    work()
    plan = Message.objects.get(subject="plan.ready")
    assert plan.payload == {"modules": 2}
    assert plan.deliveries.count() == len(fleet.readers)
    assert plan.processed_at, "a reader took it when it read a module"
    told = Message.objects.get(subject="package.json")
    assert told.payload["submodules"] > 2
    assert [message.message_id for message in read_mail(fleet.planner)] == [told.pk]


def test_the_planner_s_mail_is_read_while_the_demo_runs():
    fleet = gather_fleet()
    announce_plan(fleet, 1)
    announce_package(fleet.readers[0], find_module("json"), 10, 5)
    Watch(again=False).tick()
    assert Delivery.objects.get(agent_id=fleet.planner).state == "processed"


def test_announcing_again_tells_it_again_and_makes_no_second_channel():
    fleet = gather_fleet()
    for _ in range(2):
        announce_plan(fleet, 1)
    assert len(read_mail(fleet.readers[0])) == 2
    assert read_mail(fleet.readers[0]) == []
