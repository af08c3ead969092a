"""The admin over 5 million messages: first page, next page, one message, one day.

Through Django's test client: the whole stack but the socket and the web server.
"""

import re
import time
from datetime import UTC, datetime, timedelta
from html import unescape
from math import ceil
from random import Random
from typing import Any

from bench.frame import Report, percentile
from bench.frame.servers import installation
from bench.storage.sql import Session, add_agents, connect, one, without_triggers

DAYS = 30
LIST = "/admin/messaging/message/"
REQUESTS = 60
PAGE_ROWS = 50


def main() -> None:
    with Report("pages") as report, installation(report) as found, connect(found.dsn) as session:
        rows = fill(session, report.rows(5_000_000, 100_000))
        client = sign_in()
        ids = sample_ids(session)
        for run in range(report.runs(3)):
            for name, addresses in pages(client, ids, Random(run)).items():
                times = [timed(client, address) for address in addresses]
                report.add(
                    f"{name}_p95", percentile(times, 95), "ms", rows, f"test client, {len(times)} requests"
                )
                report.add(f"{name}_p50", percentile(times, 50), "ms", rows)


def fill(session: Session, rows: int) -> int:
    """Spread messages evenly over the last DAYS days."""
    agents = add_agents(session, 1000)
    session.execute(
        "INSERT INTO messages.channels (channel_name, channel_type) SELECT 'channel ' || n, 'topic'"
        " FROM generate_series(1, 20) n"
    )
    today = datetime.now(UTC).date()
    session.execute(
        "SELECT partitions.create_time_partition('messages.log', %s::date - n) FROM generate_series(2, %s::int) n",
        [today, DAYS],
    )
    with without_triggers(session):
        for day in range(DAYS):
            add_day(session, today - timedelta(days=day + 1), agents, ceil(rows / DAYS))
    session.execute("VACUUM (ANALYZE) messages.log")
    return int(one(session, "SELECT count(*) FROM messages.log"))


def add_day(session: Session, day: Any, agents: list[Any], rows: int) -> None:
    session.execute(
        """
        INSERT INTO messages.log (message_id, channel_id, from_agent_id, to_agent_id, message_type, subject, payload,
                                  sent_at, delivered_at)
        SELECT partitions.uuid7_at(t), CASE WHEN n %% 4 = 0 THEN c.ids[n / 4 %% 20 + 1] END, a.ids[n %% 1000 + 1],
               CASE WHEN n %% 4 > 0 THEN a.ids[n * 7 %% 1000 + 1] END,
               (ARRAY['command', 'notification', 'query', 'response'])[n %% 4 + 1]::message_type, 'orders.' || n %% 100,
               jsonb_build_object('order', n, 'text', md5(n::text)), t, t
        FROM (SELECT %(agents)s::uuid[] AS ids) a, (SELECT array_agg(channel_id) AS ids FROM messages.channels) c,
             generate_series(1, %(rows)s) n,
             LATERAL (SELECT %(day)s::timestamp AT TIME ZONE 'UTC' + n * (interval '1 day' / (%(rows)s + 1)) AS t) m
        """,
        {"agents": agents, "rows": rows, "day": day},
    )


def sample_ids(session: Session) -> list[Any]:
    found = session.execute("SELECT message_id::uuid FROM messages.log TABLESAMPLE SYSTEM (0.1)").fetchall()
    return [row[0] for row in found]


def sign_in() -> Any:
    from django.contrib.auth import get_user_model
    from django.core.management import call_command
    from django.test import Client

    call_command("collectstatic", verbosity=0, interactive=False)
    client = Client(headers={"host": "localhost"})
    client.force_login(get_user_model().objects.create_superuser("bench", password=None))
    return client


def pages(client: Any, ids: list[Any], random: Random) -> dict[str, list[str]]:
    """Return the addresses to ask for. Each next page is that of a page somewhere in the table."""
    from pg.uuid7 import uuid7_time

    chosen = random.sample(ids, REQUESTS)
    days = [uuid7_time(one).date() for one in chosen]
    return {
        "list": [LIST] * REQUESTS,
        "next": [next_page(client, f"{LIST}?after={one}") for one in chosen],
        "detail": [f"{LIST}{one}/change/" for one in chosen],
        "day": [f"{LIST}?from={day}&to={day + timedelta(days=1)}" for day in days],
    }


def next_page(client: Any, address: str) -> str:
    """Return where the page's own link to the next one leads."""
    page = client.get(address).content.decode()
    return LIST + unescape(re.search(r'href="(\?[^"]*after=[^"]*)"', page)[1])  # type: ignore[index]


def timed(client: Any, address: str) -> float:
    """Return the milliseconds of one request; its page must be there and have rows."""
    began = time.perf_counter()
    response = client.get(address)
    milliseconds = (time.perf_counter() - began) * 1000
    assert response.status_code == 200, (address, response.status_code)
    assert address.endswith("/change/") or response.content.count(b"/change/") >= PAGE_ROWS, address
    return milliseconds


if __name__ == "__main__":
    main()
