"""Pytest plugin: the three real servers, once per run, before Django reads its settings.

The first process starts PostgreSQL, nats-server and Valkey in a home of its own below the temporary folder, on free
ports, and names them in the environment; what `make up` runs beside it stays untouched. Each xdist worker
uses that PostgreSQL (with databases of its own), takes one of Valkey's databases, and starts a nats-server of its
own, for streams have one name space. POSTGRES_MAJOR=16 takes another version (see versions.py). Everything stops with
the run, also when the run is killed (see leash.py).
"""

import fcntl
import os
import re
import shutil
import signal
import tempfile
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

from cockpit.servers import Nats, Running, Valkey
from tests.crashes import crashes
from tests.versions import WITHOUT_PGVECTOR, asked_major, make_server

MEMORY, MEMORY_BYTES = Path("/dev/shm"), 3 << 30  # noqa: S108  (mkdtemp makes the name)
PREFIX = f"mistersmith-test-{os.getuid()}-"
VARIABLES = ("MISTERSMITH_HOME", "DATABASE_URL", "NATS_URL", "CELERY_BROKER_URL")
# what a developer's shell may have set must not reach the tests
FOREIGN = re.compile(
    "^(MISTERSMITH_|REPLICA_URLS|BACKGROUND_DATABASE_URL|OWNER_DATABASE_URL|ANALYTICS_DATABASE_URL|DEBUG$|PRODUCTION$|SECRET_KEY$|PG_BIN_DIR$)"
)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    options = early_config.known_args_namespace
    if options.help or options.version:
        return
    with ExitStack() as stack:
        if worker := os.environ.get("PYTEST_XDIST_WORKER"):
            join_servers(stack, int(worker.removeprefix("gw")))
        else:
            start_servers(stack)
        early_config.add_cleanup(stack.pop_all().close)


def start_servers(stack: ExitStack) -> None:
    end_on_signal()
    for name in [name for name in os.environ if FOREIGN.match(name) and name != "MISTERSMITH_POSTGRES_USER"]:
        del os.environ[name]
    major = asked_major()
    if major in WITHOUT_PGVECTOR:
        os.environ["MISTERSMITH_KNOWLEDGE"] = "false"
    home = make_home(stack)
    postgres = stack.enter_context(Running(make_server(major, home)))
    nats = stack.enter_context(Running(Nats(home)))
    valkey = stack.enter_context(Running(Valkey(home)))
    urls = (str(home), postgres.server.url(), nats.server.url(), valkey.server.url())
    os.environ.update(zip(VARIABLES, urls, strict=True))


def join_servers(stack: ExitStack, number: int) -> None:
    home = Path(os.environ["MISTERSMITH_HOME"])
    own = home / f"gw{number}"
    own.mkdir(mode=0o711, exist_ok=True)
    os.environ["NATS_URL"] = stack.enter_context(Running(Nats(own))).server.url()
    os.environ["CELERY_BROKER_URL"] = Valkey(home).url(database=number % 15 + 1)


def end_on_signal() -> None:
    """Let SIGTERM and SIGHUP end the run as Ctrl-C does, so that everything is put away."""

    def interrupt(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


# -- homes --------------------------------------------------------------------------------------------------
def make_home(stack: ExitStack) -> Path:
    """Make a home that PostgreSQL's user can enter, thrown away at the end; sweep those of killed runs."""
    folder = fast_folder()
    for old in folder.glob(f"{PREFIX}*"):
        remove_abandoned(old)
    home = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
    stack.callback(shutil.rmtree, home, ignore_errors=True)
    home.chmod(0o711)
    lock = stack.enter_context((home / "run.lock").open("w"))
    fcntl.flock(lock, fcntl.LOCK_EX)
    return home


def fast_folder() -> Path:
    """Return a folder in memory where there is room, else the temporary one: a database is cloned after each test
    that commits, and most of that is making and unlinking a thousand files."""
    with suppress(OSError):
        if os.access(MEMORY, os.W_OK | os.X_OK) and shutil.disk_usage(MEMORY).free > MEMORY_BYTES:
            return MEMORY
    return Path(tempfile.gettempdir())


def remove_abandoned(home: Path) -> None:
    """Remove the home of a run that was killed: nobody holds its lock."""
    with suppress(OSError), (home / "run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(home, ignore_errors=True)


# -- in which order, on which process -----------------------------------------------------------------------
# What takes longest begins, the many quick files fill up, and no process of the run waits for another at the end.
# A folder named here stays on one process: its files share a web process and a browser, or a server with a history.
LONG = (
    "tests/deep/test_versions.py",
    "tests/recovery/",
    "tests/browser/",
    "tests/faults/test_cross.py",
    "tests/faults/test_partitions.py",
    "tests/faults/test_outages.py",
    "tests/cockpit/test_up.py",
    "tests/tasks/test_workers.py",
    "tests/faults/test_recovery.py",
    "tests/faults/test_task_workers.py",
    "tests/bridge/test_flush_runner.py",
    "tests/bridge/test_state.py",
    "tests/faults/test_bridge.py",
    "tests/bridge/test_rollback.py",
    "tests/partitions/test_s3.py",
    "tests/cockpit/test_harness.py",
)
# each test of these takes minutes and has servers of its own
SINGLY = ("tests/deep/test_versions.py",)
SINGLY_SECONDS = 400
# so does a test that names its length: [60-s], [60-s-+3600s], [40-kills]
LENGTH, UNIT_SECONDS = re.compile(r"[\[-](\d+)-(s|kills|rounds)\b"), {"s": 1, "kills": 5, "rounds": 10}


class Schedule(LoadFileScheduling):
    """Files, whole folders of LONG or single long tests, in the order of the collection."""

    def _split_scope(self, nodeid: str) -> str:
        if seconds_of(nodeid):
            return nodeid
        file = file_of(nodeid)
        return next((path for path in LONG if path.endswith("/") and file.startswith(path)), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Schedule | None:
    if config.getvalue("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False
    return Schedule(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put single long tests first, the longest of them first, then LONG, then whichever file has more tests."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        numbers = Counter(file_of(item.nodeid) for item in items)
        items.sort(key=lambda item: place_of(item.nodeid, numbers))


def place_of(nodeid: str, numbers: Counter[str]) -> tuple[int, int, int, str]:
    file = file_of(nodeid)
    long = next((place for place, path in enumerate(LONG) if file.startswith(path)), len(LONG))
    return (-seconds_of(nodeid), long, -numbers[file], file)


def seconds_of(nodeid: str) -> int:
    """Return about how long a test takes that has a process of the run to itself; 0 when it goes with its file."""
    if file_of(nodeid) in SINGLY:
        return SINGLY_SECONDS
    found = LENGTH.search(nodeid)
    return int(found[1]) * UNIT_SECONDS[found[2]] if found else 0


def file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


# -- crashes ------------------------------------------------------------------------------------------------
@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run in which its PostgreSQL crashed has failed, although it started again by itself."""
    if "PYTEST_XDIST_WORKER" not in os.environ and found_crashes():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def found_crashes() -> list[str]:
    return crashes(Path(os.environ["MISTERSMITH_HOME"]) / "log" / "postgres.log")


# -- what was not run ---------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """With REQUIRE_ALL=1 a skipped test has failed: it was to run here."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and requires_all():
        report.outcome = "failed"
        report.longrepr = f"REQUIRE_ALL=1: {item.nodeid} was not run: {reason_of(report)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Any:
    report = yield
    if report.skipped and requires_all():
        report.outcome = "failed"
        report.longrepr = f"REQUIRE_ALL=1: {collector.nodeid} was not run: {reason_of(report)}"
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for crash in found_crashes():
        terminalreporter.write_line(f"PostgreSQL crashed: {crash}", red=True)
    reports = terminalreporter.stats.get("skipped", [])
    reasons = sorted({reason_of(report) for report in reports})
    terminalreporter.write_line(f"not run: {len(reports)} ({'; '.join(reasons) or 'everything ran'})")


def reason_of(report: Any) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def requires_all() -> bool:
    return os.environ.get("REQUIRE_ALL", "") not in ("", "0")
