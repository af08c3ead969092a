"""What doctor asks of servers, settings and processes; the rooms below register their own."""

import shutil
from collections.abc import Iterator
from datetime import timedelta
from time import time

from django.conf import settings
from django.core.checks import CheckMessage, Tags, run_checks
from django.db import connection
from django.db.models import Max
from django.utils import timezone
from django_celery_beat.models import PeriodicTask

from cockpit.database_roles import existing_roles, plan_roles, role_names
from cockpit.preparation import unapplied_migrations
from cockpit.supervision import claim
from cockpit.supervision.control import Control
from cockpit.vitals import BROKER_HINT, ask_broker, ask_nats, ask_worker, sync_interval
from monitoring.registry import Finding, register_check
from operators.command import DATABASE_HINT
from pg.demands import MINIMUM_MAJOR, demanded_extensions, server_major
from pg.errors import Unreachable

NEEDED_PAYLOAD_BYTES = 4 << 20
MINIMUM_FREE_BYTES = 1 << 30
LONGEST_SKEW_SECONDS = 1.0
LONGEST_BEAT_SILENCE = timedelta(minutes=10)
# setting, wanted, first major version that has it, what goes without
WANTED_SETTINGS = (
    ("wal_level", ("replica", "logical"), 15, "no base backups, no replicas"),
    ("archive_mode", ("on", "always"), 15, "no point-in-time recovery"),
    ("summarize_wal", ("on",), 17, "no incremental backups"),
    ("track_commit_timestamp", ("on",), 15, "commit times are unknown"),
    ("data_checksums", ("on",), 15, "rotten pages go unseen"),
    ("fsync", ("on",), 15, "a power cut destroys the database"),
)


def register() -> None:
    register_check("cockpit.postgres", look_at_postgres, gates_ready=True)
    register_check("cockpit.extensions", look_at_extensions)
    register_check("cockpit.migrations", look_at_migrations, gates_ready=True)
    register_check("cockpit.postgres_settings", look_at_postgres_settings)
    register_check("cockpit.clock", look_at_clock)
    register_check("cockpit.nats", look_at_nats)
    register_check("cockpit.broker", look_at_broker)
    register_check("cockpit.worker", look_at_worker)
    register_check("cockpit.beat", look_at_beat)
    register_check("cockpit.processes", look_at_processes)
    register_check("cockpit.disk", look_at_disk)
    register_check("cockpit.settings", look_at_settings)
    register_check("cockpit.roles", look_at_roles)


# -- PostgreSQL ---------------------------------------------------------------------------------------------
def look_at_postgres() -> Iterator[Finding]:
    try:
        connection.ensure_connection()
        major = server_major(connection)
    except Exception as error:  # the driver's errors of every kind mean the same here
        yield Finding(False, f"does not answer: {str(error).strip()}", DATABASE_HINT)
        return
    yield Finding(major >= MINIMUM_MAJOR, f"PostgreSQL {major}", f"upgrade it to {MINIMUM_MAJOR} or newer")


def look_at_extensions() -> Iterator[Finding]:
    major = server_major(connection)
    packages = {name: f"postgresql-{major}-{project}" for name, project in demanded_extensions().items()}
    packages["pg_stat_statements"] = f"postgresql-{major}"
    installed = installed_extensions()
    for name, package in packages.items():
        there = name in installed
        yield Finding(
            there,
            f"{name} {installed[name]}" if there else f"{name} is not created in this database",
            f"install the package {package} on the database server, then CREATE EXTENSION {name}",
        )
    yield look_at_preload()


def installed_extensions() -> dict[str, str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT extname, extversion FROM pg_extension")
        return dict(cursor.fetchall())


def look_at_preload() -> Finding:
    preloaded = "pg_stat_statements" in read_setting("shared_preload_libraries")
    return Finding(
        preloaded,
        f"pg_stat_statements is {'preloaded' if preloaded else 'not in shared_preload_libraries'}",
        "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements', then restart PostgreSQL",
    )


def look_at_migrations() -> Iterator[Finding]:
    missing = unapplied_migrations()
    yield Finding(
        not missing,
        f"{len(missing)} not applied: {', '.join(missing[:3])}" if missing else "all applied",
        "run `manage.py migrate` (or `make up`, which does)",
    )


def look_at_postgres_settings() -> Iterator[Finding]:
    major = server_major(connection)
    for name, wanted, since, loss in WANTED_SETTINGS:
        if major >= since:
            value = read_setting(name)
            yield Finding(
                value in wanted,
                f"{name} is {value}" + (f": {loss}" if value not in wanted else ""),
                f"ALTER SYSTEM SET {name} = '{wanted[0]}', then restart PostgreSQL"
                if name != "data_checksums"
                else "stop PostgreSQL and run pg_checksums --enable",
            )


def read_setting(name: str) -> str:
    """Return the setting as text; '' when the server has none of that name or keeps it from us."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting(%s, true)", [name])
        return str(cursor.fetchone()[0] or "")


def look_at_clock() -> Iterator[Finding]:
    """Half of the round trip is taken off: what remains is how far the two clocks are apart."""
    connection.ensure_connection()
    before = time()
    with connection.cursor() as cursor:
        cursor.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
        theirs = cursor.fetchone()[0]
    skew = abs(theirs - (before + time()) / 2)
    yield Finding(
        skew <= LONGEST_SKEW_SECONDS,
        f"PostgreSQL's clock and ours are {skew:.3f} s apart",
        "let both machines follow the same time servers (chrony, systemd-timesyncd)",
    )


def look_at_roles() -> Iterator[Finding]:
    """The four roles may do what they should and no more; an installation that has none of them does without."""
    if not set(role_names().values()) & existing_roles():
        yield Finding(True, "one role does everything (docs/operate.md, Roles)")
        return
    steps = plan_roles()
    told = "; ".join(f"{step.action} {step.object}: {step.why}" for step in steps[:3])
    yield Finding(
        not steps,
        f"{len(steps)} differences: {told}" if steps else "each role may do what it should and no more",
        "see `manage.py roles plan`, then run `manage.py roles apply`",
    )


# -- NATS and broker ----------------------------------------------------------------------------------------
def look_at_nats() -> Iterator[Finding]:
    try:
        found = ask_nats()
    except Unreachable as error:
        yield Finding(False, str(error), error.hint)
        return
    yield Finding(found.has_jetstream, f"nats-server {found.version}, JetStream {on(found.has_jetstream)}",
                  "start it with `jetstream { store_dir: ... }` in its configuration")  # fmt: skip
    yield Finding(
        found.max_payload_bytes >= NEEDED_PAYLOAD_BYTES,
        f"max_payload is {found.max_payload_bytes >> 10} kB",
        f"set max_payload: {NEEDED_PAYLOAD_BYTES >> 20}MB: checkpoints and states up to 2 MB must fit",
    )
    interval = sync_interval()
    if interval is not None:  # only a server that shows its monitoring page tells
        yield Finding(interval == "always", f"sync_interval is {interval}",
                      "set jetstream { sync_interval: always }: one server alone acknowledges first")  # fmt: skip


def on(is_on: bool) -> str:
    return "on" if is_on else "off"


def look_at_broker() -> Iterator[Finding]:
    try:
        yield Finding(True, f"answers {ask_broker()}".strip())
    except Unreachable as error:
        yield Finding(False, str(error), error.hint or BROKER_HINT)


# -- our processes ------------------------------------------------------------------------------------------
def look_at_worker() -> Iterator[Finding]:
    names = ask_worker()
    yield Finding(
        bool(names),
        f"{len(names)} Celery workers answer" if names else "no Celery worker answers",
        "run `make up`, or start one: celery -A config worker",
    )


def look_at_beat() -> Iterator[Finding]:
    """Beat writes, every 3 minutes, when it last sent what was due; most of it is due every minute or less."""
    moment = PeriodicTask.objects.filter(enabled=True).aggregate(last=Max("last_run_at"))["last"]
    is_recent = moment is not None and timezone.now() - moment < LONGEST_BEAT_SILENCE
    said = (
        f"beat last sent something {moment:%Y-%m-%d %H:%M:%S} UTC"
        if moment
        else "beat has never sent anything"
    )
    yield Finding(
        is_recent or is_beat_fresh(),
        said if is_recent or not is_beat_fresh() else "beat has just started",
        "run `make up`, or start one: celery -A config beat",
    )


def is_beat_fresh() -> bool:
    """Tell whether `up` has started beat so lately that it had nothing to write yet."""
    if not claim.is_taken(settings.MISTERSMITH_HOME):
        return False
    states = Control(settings.MISTERSMITH_HOME).states()
    uptimes = [process.uptime_seconds for process in states if process.name == "beat"]
    return any(uptime is not None and uptime < LONGEST_BEAT_SILENCE.total_seconds() for uptime in uptimes)


def look_at_processes() -> Iterator[Finding]:
    """Only `up` keeps processes; elsewhere the system's own supervisor (systemd, Kubernetes) looks after them."""
    home = settings.MISTERSMITH_HOME
    if not claim.is_taken(home):
        yield Finding(True, "`up` does not run here")
        return
    for process in Control(home).states():
        yield Finding(
            process.state in ("RUNNING", "EXITED"),
            f"{process.name} is {process.state}",
            f"see `manage.py logs {process.name}`; `make down` and `make up` start everything anew",
        )


# -- this machine -------------------------------------------------------------------------------------------
def look_at_disk() -> Iterator[Finding]:
    free = shutil.disk_usage(settings.MISTERSMITH_HOME).free
    yield Finding(
        free >= MINIMUM_FREE_BYTES,
        f"{free >> 20} MB free at {settings.MISTERSMITH_HOME}",
        f"keep {MINIMUM_FREE_BYTES >> 20} MB free: PostgreSQL and JetStream stop when the disk is full",
    )


def look_at_settings() -> Iterator[Finding]:
    """DEBUG beyond loopback, secret key: the system checks of the settings."""
    found: list[CheckMessage] = run_checks(tags=[Tags.security])
    for message in found:
        yield Finding(False, f"{message.msg} ({message.id})", message.hint or "")
    if not found:
        yield Finding(True, f"DEBUG is {on(settings.DEBUG)}, nothing unsafe is set")
