"""Gives the administrator a new password."""

from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser

from cockpit.administrator import set_password
from cockpit.command import SingleCommand
from operators.command import Answer


class Command(SingleCommand):
    help = "Set a new random password for an administrator (made when missing) and print it."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("user", nargs="?", default=settings.ADMIN_USER)

    def answer(self, user: str, **options: Any) -> Answer:
        return Answer(items=[{"user": user, "password": set_password(user)}])
