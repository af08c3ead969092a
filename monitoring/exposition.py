"""The registry's metrics in Prometheus' text formats."""

from collections.abc import Iterator
from time import perf_counter

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
        with registry.one_reading():
            families = list(map(timed_read, registry.metrics()))
        for family, is_read, took in families:
            seconds.add_metric([family.name], took)
            errors.add_metric([family.name], 0 if is_read else 1)
            yield family
        yield errors
        yield seconds


def read(metric: registry.Metric) -> tuple[Metric, bool]:
    """Return the family, and False where it could not be read: the others must not suffer from it."""
    family = GaugeMetricFamily(metric.name, metric.help)
    try:
        for labels, value in registry.read_metric(metric):
            family.add_sample(metric.name, labels, value)
    except Exception:  # the errors metric and the log say which; the scrape goes on
        registry.log.exception("metric %s", metric.name)
        return family, False
    return family, True


def timed_read(metric: registry.Metric) -> tuple[Metric, bool, float]:
    began = perf_counter()
    return *read(metric), perf_counter() - began


def expose(accept: str) -> tuple[bytes, str]:
    """Return the page and its content type, in the format that the scraper asks for."""
    encode, content_type = choose_encoder(accept)
    collector = CollectorRegistry(auto_describe=False)
    collector.register(RoomsCollector())
    return encode(collector), content_type
