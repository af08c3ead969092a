"""Everything out of order at once, put right by one `apply`."""

import json
import os
import subprocess
import sys

from tests.faults.installation import ROOT
from tests.partitions.world import ALL_ROWS, STEPS, TABLES, make_world, midnight, rows_anywhere, strangers


def test_one_apply_puts_everything_in_order_and_says_why(own_database, own_home):
    with own_database.connect() as session:
        make_world(session, own_database.dsn)
        environ = {**os.environ, **own_database.environ, "MISTERSMITH_PARTITIONS_ARCHIVE_DIR": str(own_home)}

        def partitions(verb: str) -> dict:
            argv = [sys.executable, "manage.py", "partitions", verb, *TABLES, "--json"]
            done = subprocess.run(argv, cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
            return json.loads(done.stdout)

        day = lambda offset: f"{midnight(offset):%Y_%m_%d}"  # noqa: E731
        planned = [
            f"{step['action']} {step['object']}: {step['why']}" for step in partitions("plan")["steps"]
        ]
        assert planned[:5] == [
            f"finalize app.events_{day(-8)}: an interrupted DETACH CONCURRENTLY",
            f"create app.events_{day(-2)}: a gap between partitions",
            f"create app.events_{day(2)}: 2 days are made ahead",
            f"archive app.events_{day(-9)}: older than 5 days",
            f"detach app.events_{day(-9)}: older than 5 days",
        ]
        assert f"drop app.events_{day(-9)}: older than 5 days, archived and verified" in planned
        assert f"create app.visits_{day(-20)}: 40 rows of it wait in DEFAULT and move along" in planned
        applied = partitions("apply")
        assert (applied["ok"], len(applied["steps"])) == (True, STEPS), "tests/faults kills each of these"
        assert partitions("plan")["steps"] == []
        assert rows_anywhere(session) == ALL_ROWS
        assert session.execute("SELECT count(*) FROM app.visits_default").fetchone() == (0,)
        assert strangers(session) == 2
