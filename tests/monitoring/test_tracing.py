"""Traces from one process to a collector: somebody else's service, played by an HTTP server that keeps spans."""

import gzip
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from cockpit.servers.ports import HOST, free_port
from monitoring import tracing
from tests.config.test_settings import ROOT

TRACE = "0af7651916cd43dd8448eb211c80319c"  # of the request in traced.py, as its caller numbered it
ERROR = 2


@pytest.fixture
def collector():
    class Collect(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = ExportTraceServiceRequest.FromString(gunzip(self.headers, body))
            for resource in request.resource_spans:
                names = {a.key: a.value.string_value for a in resource.resource.attributes}
                services.add(names["service.name"])
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    spans, services = [], set()
    server = ThreadingHTTPServer((HOST, free_port()), Collect)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://{HOST}:{server.server_port}", spans, services
    server.shutdown()
    thread.join()
    server.server_close()


def gunzip(headers, body):
    return gzip.decompress(body) if headers.get("Content-Encoding") == "gzip" else body


def test_one_trace_from_the_producer_through_tasks_to_a_message(own_database, collector):
    url, spans, services = collector
    environ = {**os.environ, "DATABASE_URL": own_database.url, "OTEL_EXPORTER_OTLP_ENDPOINT": url}
    environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
    done = subprocess.run(
        [sys.executable, "-m", "tests.monitoring.traced"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = dict(line.split() for line in done.stdout.splitlines())
    by_name = {span.name: span for span in spans}
    outer, parent, child = by_name["outer"], by_name["run traced.parent"], by_name["run traced.child"]

    assert services == {"mistersmith"}
    (request,) = (span for span in spans if span.trace_id.hex() == TRACE)  # and none of /healthz
    assert request.name.startswith("GET admin/")

    assert told["outer"].startswith(f"00-{outer.trace_id.hex()}-{outer.span_id.hex()}-")
    assert parent.parent_span_id == outer.span_id
    assert child.parent_span_id == parent.span_id
    assert outer.trace_id == parent.trace_id == child.trace_id
    assert told["message"].startswith(f"00-{parent.trace_id.hex()}-{parent.span_id.hex()}-")

    assert [a.key for a in outer.attributes] == ["agent"]
    assert {a.key for a in parent.attributes} == {"task.id", "task.type", "task.attempt"}
    assert (parent.status.code, child.status.code) == (0, ERROR)
    assert child.status.message == "ValueError: it breaks, password=[redacted]"
    assert not child.events  # a traceback may hold secrets: it is in the execution, redacted

    (line,) = (line for line in done.stderr.splitlines() if "inside" in line)
    assert f"trace_id={parent.trace_id.hex()} span_id={parent.span_id.hex()}" in line


def test_without_a_collector_nothing_is_imported_and_blocks_run(settings):
    code = (
        "import sys, django; django.setup(); from monitoring import tracing\n"
        "with tracing.span('x'): print(tracing.traceparent())\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    environ = {**os.environ, "DJANGO_SETTINGS_MODULE": "config.settings"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "None\n[]\n"
    assert tracing.trace_ids() == {}
