"""What the demo's agents tell each other: the planner that there is work, readers that a package is read."""

from uuid import UUID

from demo.fleet import READER_TYPE, Fleet
from demo.modules import Module
from messaging.channels import create_channel, subscribe
from messaging.delivery import Taken, acknowledge, take
from messaging.models import Channel
from messaging.send import send

CHANNEL = "demo.packages"
MAIL_AT_ONCE = 50


def announce_plan(fleet: Fleet, modules: int) -> None:
    """Tell every reader how much there is to read, and let the planner hear of packages. A plan again, told again."""
    create_channel(CHANNEL, Channel.Kind.TOPIC, description="packages that the demo's readers have read")
    subscribe(fleet.planner, CHANNEL, pattern="package.>")
    send({"modules": modules}, broadcast_to_type=READER_TYPE, from_agent=fleet.planner, subject="plan.ready")


def announce_package(reader: UUID, module: Module, facts: int, submodules: int) -> None:
    """Tell who listens that a package itself is read; its submodules are tasks of their own."""
    create_channel(CHANNEL, Channel.Kind.TOPIC)
    payload = {"package": module.name, "facts": facts, "submodules": submodules}
    send(payload, channel=CHANNEL, from_agent=reader, subject=f"package.{module.name}")


def read_mail(agent_id: UUID) -> list[Taken]:
    """Take what waits for an agent, and acknowledge it; return it. One query when nothing waits."""
    mail = take(agent_id, MAIL_AT_ONCE)
    acknowledge(*mail)
    return mail
