"""The list of a big table: its first page, a page a million rows deep, its last one; and Django's own way beside it."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from bench.frame import Report
from bench.frame.servers import installation

ROWS, QUICK_ROWS = 2_000_000, 20_000
LOADS = 9  # of each page; the median counts
RUNS = 5
LIST = "/admin/messaging/message/"
FILL = """
SET session_replication_role = replica;
INSERT INTO messages.log (message_id, message_type, sent_at)
SELECT (left(partitions.uuid7_floor(moment)::text, 24) || lpad(to_hex(n), 12, '0'))::uuid, 'heartbeat', moment
FROM (SELECT n, date_trunc('day', now(), 'UTC') + n * (interval '10 days' / %(rows)s) AS moment
      FROM generate_series(1, %(rows)s) n) made;
SET session_replication_role = DEFAULT;
"""


def main() -> None:
    with Report("admin") as report, installation(report):
        rows = report.rows(ROWS, QUICK_ROWS)
        fill(rows)
        client, deep = log_in(), place_at(rows // 2)
        warm_up(client)
        for _ in range(report.runs(RUNS)):
            first = measure(client, LIST)
            report.add("page_first", first, "ms", rows)
            for name, address in (("page_deep", f"{LIST}?after={deep}"), ("page_last", f"{LIST}?before=")):
                report.add(name, measure(client, address), "ms", rows)
                report.add_peer(name, "first page", first)
            report.add("page_deep_by_key", measure(client, f"{LIST}?after={deep}"), "ms", rows)
            report.add_peer("page_deep_by_key", "Django's OFFSET", measure_offset(client, rows // 2))


def fill(rows: int) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(FILL, {"rows": rows})
        cursor.execute("VACUUM ANALYZE messages.log")


def log_in() -> Any:
    """Return a client of an administrator's. Static files keep their plain names: nothing was collected."""
    from django.conf import settings
    from django.contrib.auth.models import User
    from django.test import Client
    from django.test.utils import setup_test_environment

    setup_test_environment()  # answers then carry what was rendered
    settings.STORAGES["staticfiles"]["BACKEND"] = "django.contrib.staticfiles.storage.StaticFilesStorage"
    client = Client()
    client.force_login(User.objects.create_superuser("bench"))
    return client


def place_at(number: int) -> str:
    from messaging.models import Message

    return str(Message.objects.order_by("-pk").values_list("pk", flat=True)[number])


def warm_up(client: Any) -> None:
    for address in (LIST, f"{LIST}?before="):
        measure(client, address)


def measure(client: Any, address: str) -> float:
    """Return the median time of one page, rendered whole, in ms."""
    return median(milliseconds(lambda: check(client.get(address))) for _ in range(LOADS))


def measure_offset(client: Any, number: int) -> float:
    """Return the time of the page that begins with row `number`, by Django's own list with the same count."""
    from django.contrib.admin.views.main import ChangeList

    from messaging.admin import MessageAdmin
    from pg.changelist import EstimatedPaginator

    ours = MessageAdmin.get_changelist
    template, EstimatedPaginator.template_name = EstimatedPaginator.template_name, ""
    MessageAdmin.get_changelist = lambda self, request, **options: ChangeList  # type: ignore[method-assign]
    try:
        return measure(client, f"{LIST}?p={number // MessageAdmin.list_per_page + 1}")
    finally:
        MessageAdmin.get_changelist = ours  # type: ignore[method-assign]
        EstimatedPaginator.template_name = template


def check(answer: Any) -> None:
    shown = len(answer.context["cl"].result_list)
    assert (answer.status_code, shown) == (200, 50), (answer.status_code, shown)


def milliseconds(do: Callable[[], None]) -> float:
    begun = time.perf_counter()
    do()
    return (time.perf_counter() - begun) * 1_000


if __name__ == "__main__":
    main()
