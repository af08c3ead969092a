"""docs/first-handler.md, run from its own text."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tasks.models import Execution
from tests.marks import LATER
from tests.tasks.conftest import ROOT, empty_broker, eventually

pytestmark = [*LATER, pytest.mark.servers, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def run(tmp_path, broker_url):
    """Run shell lines in a directory of the reader's own, with the checkout importable; end what they leave."""
    empty_broker(broker_url)
    (tmp_path / "manage.py").symlink_to(ROOT / "manage.py")
    python = tmp_path / "bin"
    python.mkdir()
    (python / "python").symlink_to(sys.executable)
    environ = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
    }
    started = []

    def start(script: str) -> subprocess.Popen:
        with (tmp_path / "out.log").open("ab") as out:
            started.append(
                subprocess.Popen(
                    ["bash", "-e"],
                    stdin=subprocess.PIPE,
                    stdout=out,
                    stderr=out,
                    cwd=tmp_path,
                    env=environ,
                    text=True,
                )
            )
        started[-1].stdin.write(f"{script}\nwait\n")
        started[-1].stdin.close()
        return started[-1]

    yield start
    for process in started:
        for child in psutil.Process(process.pid).children() if process.poll() is None else []:
            child.send_signal(signal.SIGTERM)
        process.wait(30)


def test_the_first_handler_of_the_documentation_ends_green(run, tmp_path):
    text = (ROOT / "docs" / "first-handler.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    run(f"{blocks[0]}\n{blocks[1]}")
    eventually(
        lambda: Execution.objects.filter(status="completed", result={"greeting": "Hello, World!"}).exists(),
        60,
    )
    listing = run(f"export MISTERSMITH_APPS=hello\n{blocks[2]}")
    assert listing.wait(30) == 0
    assert "completed" in (tmp_path / "out.log").read_text()
