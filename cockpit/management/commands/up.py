"""Runs everything on this machine, in the foreground (DETACH=1: in the background) until Ctrl-C or `down`."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import ERROR, Tags, run_checks
from django.core.management.base import CommandParser

from cockpit.command import SingleCommand
from cockpit.preparation import DEMANDS, check_servers
from cockpit.supervision import claim, lifecycle
from cockpit.supervision.logs import Logs, wants_colour
from operators.command import Answer
from pg.errors import Refused

CHECKOUT = Path(__file__).resolve().parents[3]  # where manage.py lies


class Command(SingleCommand):
    help = "Start embedded servers where no URL names your own, migrate, and run all processes."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--detach",
            action="store_true",
            default=is_on("DETACH"),
            help="return when all is up (or DETACH=1)",
        )
        parser.add_argument(
            "--no-demo",
            action="store_true",
            default=not is_on("DEMO", "1"),
            help="without the fleet (or DEMO=0)",
        )

    def answer(self, detach: bool, no_demo: bool, **options: Any) -> Answer:
        refuse_broken_settings()
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, interrupt)
        home = settings.MISTERSMITH_HOME
        lock = claim.take(home)
        plan = make_plan(detach, with_demo=not no_demo)
        check_own_servers(plan)
        try:
            started = lifecycle.bring_up(plan, lock, say)
            os.close(lock)  # supervisord holds it
            if not detach:
                sys.stderr.write(banner(started))
                return follow(started)
        except KeyboardInterrupt:
            say("stopped before everything was up; nothing is left running")
            return Answer()
        except lifecycle.PreparationFailed as failure:
            raise SystemExit(failure.returncode) from failure
        sys.stderr.write(banner(started))
        return Answer(items=[{"url": plan.url, "pid": started.supervisord.pid}])


def make_plan(detach: bool, with_demo: bool) -> lifecycle.Plan:
    home, bind = settings.MISTERSMITH_HOME, settings.WEB_BIND
    explicit = "MISTERSMITH_WEB_PORT" in os.environ
    return lifecycle.Plan(
        home=home,
        checkout=CHECKOUT,
        bind=bind,
        port=lifecycle.choose_web_port(bind, settings.WEB_PORT, explicit),
        with_demo=with_demo and apps.is_installed("demo"),
        detached=detach,
        wait_seconds=settings.START_SECONDS,
        servers=lifecycle.embedded_servers(home, os.environ),
    )


def check_own_servers(plan: lifecycle.Plan) -> None:
    """Reach the servers that the environment names before any other is started."""
    embedded = {server.variable for server in plan.servers}
    check_servers(variable for variable in DEMANDS if variable not in embedded)


def refuse_broken_settings() -> None:
    """Raise Refused for the first error that the checks of the settings find (DEBUG beyond loopback, ...)."""
    errors = [message for message in run_checks(tags=[Tags.security]) if message.level >= ERROR]
    if errors:
        raise Refused(f"{errors[0].msg} ({errors[0].id})", errors[0].hint or "")


def interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def is_on(name: str, default: str = "") -> bool:
    return os.environ.get(name, default).lower() not in ("", "0", "false", "no", "off")


def banner(started: lifecycle.Started) -> str:
    plan = started.plan
    shown = started.password or "as set before (new one: manage.py admin_password)"
    lines = [
        f"Mister Smith runs at {plan.url}",
        f"  user      {settings.ADMIN_USER}",
        f"  password  {shown}{' (shown once)' if started.password else ''}",
        f"  data      {plan.home}",
        f"  stop      {'make down' if plan.detached else 'Ctrl-C, or make down'}",
    ]
    return "\n" + "\n".join(lines) + "\n\n"


def follow(started: lifecycle.Started) -> Answer:
    """Show the logs until Ctrl-C, or until supervisord ends (by `down`: its exit code is 0)."""
    logs, colour = Logs(started.plan.home), wants_colour()
    logs.skip_to_end()
    try:
        for line in logs.follow(colour):
            if line:
                sys.stdout.write(f"{line}\n")
            elif started.supervisord.poll() is not None:
                break
            else:
                sys.stdout.flush()
    except KeyboardInterrupt:
        say("\nstopping: our processes first, PostgreSQL last")
        ignore_signals()
    except BrokenPipeError:  # nobody reads us any more
        lifecycle.stop(started)
        raise SystemExit(0) from None
    code = lifecycle.stop(started)
    if code:
        return Answer(
            ok=False,
            warnings=[f"the supervisor ended with {code}: see {started.plan.home}/log; run `up` again"],
        )
    say("stopped; the data stays in " + str(started.plan.home))
    return Answer()


def ignore_signals() -> None:
    """A second Ctrl-C changes nothing: the stop is under way."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
