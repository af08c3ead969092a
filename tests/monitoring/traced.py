"""A process whose traces go to a collector: a request, a task, the task that it spawns, a message."""

import sys

import django

django.setup()

from django.db import connection  # noqa: E402
from django.test import Client  # noqa: E402
from opentelemetry import trace  # noqa: E402

from messaging.send import send  # noqa: E402
from monitoring import tracing  # noqa: E402
from tasks import jobs, tickets, worker  # noqa: E402
from tasks.enqueue import enqueue  # noqa: E402
from tasks.handlers import handler  # noqa: E402

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@handler("traced.parent", max_retries=0)
def parent(context):
    context.spawn("traced.child")
    send({"n": 1}, to_agent=context.agent_id)
    context.logger.warning("inside")


@handler("traced.child", max_retries=0)
def child(context):
    raise ValueError("it breaks, password=hunter2")


def tell(name, value):
    sys.stdout.write(f"{name} {value}\n")


def main() -> None:
    tickets.send = lambda *ticket: None  # no broker
    worker._worker = worker.Worker()
    browser = Client(SERVER_NAME="localhost", headers={tracing.HEADER: PARENT})
    browser.get("/admin/")
    browser.get("/healthz")
    with tracing.span("outer", "producer", agent="a1", nothing=None):
        tell("outer", tracing.traceparent())
        enqueue("traced.parent")
    assert tracing.traceparent() is None
    jobs.run_ticket("traced.parent")
    jobs.run_ticket("traced.child")
    with connection.cursor() as cursor:
        cursor.execute("SELECT headers->>'traceparent' FROM messages.log")
        tell("message", cursor.fetchone()[0])
    trace.get_tracer_provider().shutdown()


main()
