"""The plan of the update trigger's join must not be the one of its first call."""

import time
from uuid import uuid4

import pytest

from bridge.session import open_session
from tests.bridge.conftest import rows


@pytest.mark.usefixtures("committed")
def test_a_bulk_update_is_as_fast_after_a_single_one():
    """As static SQL the trigger's join would keep the plan of its first call: a nested loop over all rows."""
    number = 20_000
    rows("INSERT INTO agents.registry (agent_id, agent_type, agent_name) VALUES (%s, 't', 'n')", uuid4())
    rows("INSERT INTO agents.state (agent_id, state_key, state_value)"
         " SELECT agent_id, 'k' || n, '0' FROM agents.registry, generate_series(1, %s) n WHERE agent_type = 't'",
         number)  # fmt: skip
    fresh = timed_update(warm=False)
    warmed = timed_update(warm=True)
    assert warmed < 3 * fresh + 0.5


def timed_update(warm):
    with open_session(["SET statement_timeout = '30s'"]) as session, session.cursor() as cursor:
        if warm:
            cursor.execute("UPDATE agents.state SET state_value = '\"one\"' WHERE state_key = 'k1'")
        started = time.monotonic()
        cursor.execute("UPDATE agents.state SET state_value = to_jsonb(random())")
        return time.monotonic() - started
