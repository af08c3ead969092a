"""Traces by OpenTelemetry, where OTEL_EXPORTER_OTLP_ENDPOINT says where to; without it nothing of it is imported.

A trace goes on over processes by the W3C header `traceparent`: a request's is read from its headers, a task's is kept
in its metadata, a message's in its headers. OpenTelemetry's own variables (OTEL_TRACES_SAMPLER,
OTEL_EXPORTER_OTLP_HEADERS, ...) hold as its specification says.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.conf import settings

HEADER = "traceparent"
NOT_TRACED = "healthz,readyz,metrics"


def start() -> None:
    """Send spans from this process on, and make one for each request. Once, at the start; a fork goes on by itself."""
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.django import DjangoInstrumentor
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    os.environ.setdefault(
        "OTEL_SEMCONV_STABILITY_OPT_IN", "http"
    )  # the names that are stable, not those before them
    provider = TracerProvider(resource=Resource.create({"service.name": settings.OTEL_SERVICE_NAME}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    DjangoInstrumentor().instrument(tracer_provider=provider, excluded_urls=NOT_TRACED)


@contextmanager
def span(name: str, kind: str = "internal", parent: str | None = None, **attributes: Any) -> Iterator[None]:
    """Make a span of the block; an exception that leaves the block marks it as failed.

    `kind`: internal, producer or consumer. `parent`: a `traceparent` from elsewhere; None: the span that is open here.
    `attributes` that are None are left out. Does nothing where traces are off.
    """
    if not settings.TRACING:
        yield
        return
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({HEADER: parent}) if parent else None
    told = {name: value for name, value in attributes.items() if value is not None}
    tracer = trace.get_tracer("mistersmith")
    with tracer.start_as_current_span(name, context, trace.SpanKind[kind.upper()], told):
        yield


def traceparent() -> str | None:
    """Return the header of the span that is open here; None where there is none or traces are off."""
    if not settings.TRACING:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get(HEADER)


def fail(reason: str) -> None:
    """Mark the span that is open here as failed, where no exception leaves its block."""
    if settings.TRACING:
        from opentelemetry import trace

        trace.get_current_span().set_status(trace.StatusCode.ERROR, reason)


def trace_ids() -> Mapping[str, str]:
    """Return `trace_id` and `span_id` of the span that is open here, for log lines."""
    header = traceparent()
    if header is None:
        return {}
    _, trace_id, span_id, _ = header.split("-")
    return {"trace_id": trace_id, "span_id": span_id}
