"""The registry's metrics in Prometheus' text formats."""

from collections.abc import Iterator
from time import perf_counter

from django.db import transaction
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from monitoring import registry

ERRORS = "mistersmith_metric_errors"
SECONDS = "mistersmith_metric_read_seconds"


class RoomsCollector(Collector):
    """Reads each room's metrics at the moment of the scrape; the database is the memory, so that any process tells."""

    def collect(self) -> Iterator[Metric]:
        errors = GaugeMetricFamily(
            ERRORS, "1 for a metric that could not be read just now", labels=["metric"]
        )
        seconds = GaugeMetricFamily(SECONDS, "How long reading a metric took", labels=["metric"])
        for metric in registry.metrics():
            began = perf_counter()
            family, is_read = read(metric)
            seconds.add_metric([metric.name], perf_counter() - began)
            errors.add_metric([metric.name], 0 if is_read else 1)
            yield family
        yield errors
        yield seconds


def read(metric: registry.Metric) -> tuple[Metric, bool]:
    """Return the family, and False where it could not be read: the others must not suffer from it."""
    family = GaugeMetricFamily(metric.name, metric.help)
    try:
        with transaction.atomic():
            for labels, value in metric.read():
                family.add_sample(metric.name, labels, value)
    except Exception:  # the errors metric and the log say which; the scrape goes on
        registry.log.exception("metric %s", metric.name)
        family.samples.clear()
        return family, False
    return family, True


def expose(accept: str) -> tuple[bytes, str]:
    """Return the page and its content type, in the format that the scraper asks for."""
    encode, content_type = choose_encoder(accept)
    collector = CollectorRegistry(auto_describe=False)
    collector.register(RoomsCollector())
    return encode(collector), content_type
