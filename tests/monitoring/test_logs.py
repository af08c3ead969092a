import json
import logging
import subprocess
import sys
import threading

import pytest

from monitoring.logs import AddIds, JsonLines, LineFormatter, current_ids, log_ids
from monitoring.middleware import choose_id
from tests.config.test_settings import ROOT, manage

log = logging.getLogger("tests.logs")


@pytest.fixture
def lines(request):
    """What is logged, as `formatter` writes it."""

    class Keep(logging.Handler):
        def emit(self, record):
            written.append(self.format(record))

    written: list[str] = []
    handler = Keep()
    handler.addFilter(AddIds())
    handler.setFormatter(request.param())
    log.addHandler(handler)
    yield written
    log.removeHandler(handler)


@pytest.mark.parametrize("lines", [LineFormatter], indirect=True)
def test_a_line_ends_with_its_ids(lines):
    log.warning("before")
    with log_ids(request_id="r1", task_id=None), log_ids(agent_id="a1"):
        log.warning("inside %s", "it")
    log.warning("after")
    assert [line.partition("tests.logs: ")[2] for line in lines] == [
        "before",
        "inside it [request_id=r1 agent_id=a1]",
        "after",
    ]


@pytest.mark.parametrize("lines", [JsonLines], indirect=True)
def test_json_has_the_ids_the_extras_and_the_traceback_in_one_line(lines):
    with log_ids(task_id="t1", attempt=2):
        try:
            raise ValueError("two\nlines")
        except ValueError:
            log.exception("it failed", extra={"task_id": "given", "size_bytes": 3})
    (line,) = lines
    assert "\n" not in line
    told = json.loads(line)
    assert told["message"] == "it failed"
    assert told["level"] == "ERROR"
    assert told["logger"] == "tests.logs"
    assert (told["task_id"], told["attempt"], told["size_bytes"]) == ("given", "2", 3)
    assert told["time"].endswith("+00:00")
    assert "ValueError: two" in told["exc_info"]
    assert "ids" not in told


def test_ids_belong_to_their_own_thread():
    seen = []
    with log_ids(request_id="mine"):
        thread = threading.Thread(target=lambda: seen.append(dict(current_ids())))
        thread.start()
        thread.join()
    assert seen == [{}]


@pytest.mark.parametrize("bad", ["", "two words", "new\nline", "x" * 65, "ä", "[id=1]"])
def test_a_request_id_that_could_forge_a_line_is_replaced(bad):
    assert len(choose_id(bad)) == 36


def test_a_request_keeps_the_id_that_it_came_with(client):
    given = client.get("/healthz", headers={"X-Request-ID": "proxy-1"})
    assert given["X-Request-ID"] == "proxy-1"
    first, second = (client.get("/healthz")["X-Request-ID"] for _ in range(2))
    assert first != second


def test_log_format_json_reaches_the_lines_of_a_process(tmp_path):
    code = (
        "import django, logging; django.setup();"
        " from monitoring.logs import log_ids;\n"
        "with log_ids(agent_id='a1'): logging.getLogger('x').warning('hello')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={
            "MISTERSMITH_HOME": str(tmp_path),
            "LOG_FORMAT": "json",
            "DJANGO_SETTINGS_MODULE": "config.settings",
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(done.stderr)["agent_id"] == "a1"


def test_another_format_is_refused_by_name(tmp_path):
    done = manage(tmp_path, "check", LOG_FORMAT="xml")
    assert done.returncode == 2
    assert "LOG_FORMAT" in done.stderr
    assert "line or json" in done.stderr
