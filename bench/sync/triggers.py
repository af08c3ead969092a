"""What writers pay for the outbox: the real agents.state with its triggers, without them, and with row triggers."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.frame import Report
from bench.frame.servers import Installation
from bench.storage.sql import add_agents
from bench.sync.stores import VALUE, clear, connect, timed
from cockpit.servers.postgres import wheel_folder

NAMES = ("bridge_insert", "bridge_update")
CLIENTS, AGENTS = 16, 100
# as the statement triggers do it, row by row
ROW_TRIGGERS = """
CREATE SCHEMA IF NOT EXISTS bench;
CREATE OR REPLACE FUNCTION bench.capture_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF bridge.is_echo() THEN
    RETURN NULL;
  END IF;
  IF TG_OP = 'UPDATE' AND NEW.state_value IS NOT DISTINCT FROM OLD.state_value
     AND NEW.expires_at IS NOT DISTINCT FROM OLD.expires_at
     AND (NEW.agent_id, NEW.state_key) = (OLD.agent_id, OLD.state_key) THEN
    RETURN NULL;
  END IF;
  INSERT INTO bridge.outbox (target, key, op, base_revision, payload, expires_at)
  VALUES ('AGENT_STATE', NEW.agent_id || '.' || bridge.encode_key(NEW.state_key), 'U',
          CASE WHEN NEW.kv_epoch = (SELECT s.kv_epoch FROM bridge.sources s WHERE s.bucket = 'AGENT_STATE')
               THEN NEW.kv_revision ELSE 0 END, NEW.state_value, NEW.expires_at);
  RETURN NULL;
END $$;
CREATE TRIGGER bench_row AFTER INSERT OR UPDATE ON agents.state FOR EACH ROW EXECUTE FUNCTION bench.capture_row()
"""


def measure(report: Report, found: Installation) -> None:
    number = report.rows(100_000, 5_000)
    clear(found)
    with connect(found) as session:
        agents = add_agents(session, AGENTS)
        times = {kind: run_bulk(session, kind, agents, number) for kind in ("with", "without", "row")}
        warmed = run_warmed(found, session, agents, number)
    for name in ("insert", "update"):
        for peer, kind in (("without triggers", "without"), ("row trigger", "row")):
            figure = f"trigger_{name}" if kind == "without" else f"trigger_{name}_against_row"
            report.add(figure, times["with"][name], "s", number)
            report.add_peer(figure, peer, times[kind][name])
    report.add("trigger_update_warmed", warmed[1], "s", number, "after a one-row update in the session")
    report.add_peer("trigger_update_warmed", "fresh session", warmed[0])
    measure_clients(report, found)


def run_bulk(session: Any, kind: str, agents: list[Any], number: int) -> dict[str, float]:
    """Return the seconds of an insert and an update of `number` rows, each one statement."""
    with triggers(session, kind):
        empty(session)
        insert = timed(lambda: insert_rows(session, agents, number))
        forget(session)
        return {"insert": insert, "update": timed(lambda: update_rows(session, 1))}


def run_warmed(found: Installation, session: Any, agents: list[Any], number: int) -> tuple[float, float]:
    """Return the seconds of an update of all rows in a fresh session, and in one that has updated one row."""
    empty(session)
    insert_rows(session, agents, number)
    seconds = []
    for is_warm in (False, True):
        forget(session)
        with connect(found) as other:
            if is_warm:
                other.execute(f"{UPDATE} WHERE agent_id = %s AND state_key = 'key.1'", ["-1", agents[0]])
            seconds.append(timed(lambda other=other, n=is_warm: update_rows(other, 2 + n)))  # type: ignore[misc]
    return seconds[0], seconds[1]


@contextmanager
def triggers(session: Any, kind: str) -> Iterator[None]:
    """With those of the bridge; without; or with row triggers in their place."""
    if kind != "with":
        for name in NAMES:
            session.execute(f"ALTER TABLE agents.state DISABLE TRIGGER {name}")
    if kind == "row":
        session.execute(ROW_TRIGGERS)
    try:
        yield
    finally:
        session.execute("DROP TRIGGER IF EXISTS bench_row ON agents.state")
        for name in NAMES:
            session.execute(f"ALTER TABLE agents.state ENABLE TRIGGER {name}")


def empty(session: Any) -> None:
    session.execute("SET bridge.allow_truncate = 'on'")
    session.execute("TRUNCATE agents.state, bridge.outbox")
    session.execute("CHECKPOINT")


def forget(session: Any) -> None:
    session.execute("TRUNCATE bridge.outbox")
    session.execute("VACUUM ANALYZE agents.state")
    session.execute("CHECKPOINT")


def insert_rows(session: Any, agents: list[Any], number: int) -> None:
    session.execute(
        "INSERT INTO agents.state (agent_id, state_key, state_value)"
        " SELECT a, 'key.' || n, %s::jsonb FROM unnest(%s::uuid[]) a, generate_series(1, %s) n",
        [json.dumps(VALUE), agents, number // len(agents)],
    )


UPDATE = "UPDATE agents.state SET state_value = jsonb_set(state_value, '{n}', %s::jsonb)"


def update_rows(session: Any, number: int) -> None:
    session.execute(UPDATE, [str(number)])


# -- many clients -----------------------------------------------------------------------------------------------
SCRIPT = """\
\\set a random(1, {agents})
\\set k random(1, 100)
\\set n random(1, 1000000000)
UPDATE agents.state SET state_value = jsonb_set(state_value, '{{n}}', :n::text::jsonb)
WHERE agent_id = (SELECT agent_id FROM bench.numbered WHERE n = :a) AND state_key = 'key.' || :k;
"""


def measure_clients(report: Report, found: Installation) -> None:
    """Single-row updates a second, with and without triggers; no relay at work."""
    seconds = report.rows(5, 2)
    script = found.home / "update.pgbench"
    script.write_text(SCRIPT.format(agents=AGENTS))
    rates = {}
    with connect(found) as session:
        session.execute("DROP TABLE IF EXISTS bench.numbered")
        session.execute(
            "CREATE TABLE bench.numbered AS SELECT row_number() OVER () AS n, agent_id FROM agents.registry"
        )
        session.execute("ALTER TABLE bench.numbered ADD PRIMARY KEY (n)")
        for kind in ("without", "with"):
            with triggers(session, kind):
                forget(session)
                rates[kind] = pgbench(found, script, seconds)
    report.add("trigger_clients", rates["with"], "updates/s", seconds, f"{CLIENTS} clients, {seconds} s")
    report.add_peer("trigger_clients", "without triggers", rates["without"])


def pgbench(found: Installation, script: Path, seconds: int) -> float:
    program = str(wheel_folder() / "pginstall" / "bin" / "pgbench")
    command = [program, "-n", f"-c{CLIENTS}", "-j2", f"-T{seconds}", "-f", str(script), found.dsn]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in said.splitlines() if line.startswith("tps")]
    return float(line.split()[2])
