"""Metrics for Prometheus, in a registry of their own."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.responses import Response

from burnish.serving.middleware.request_state import Usage

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """Counters of the server since its start, and the current queue lengths."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self._requests = Counter(
            "burnish_requests", "Requests answered.", ["route", "status"], registry=own
        )
        self._seconds = Histogram(
            "burnish_request_seconds",
            "Seconds until an answer was complete.",
            ["route"],
            buckets=_SECONDS,
            registry=own,
        )
        self._first = Histogram(
            "burnish_first_token_seconds",
            "Seconds until the first token was ready.",
            ["route"],
            buckets=_SECONDS,
            registry=own,
        )
        self._tokens = Counter(
            "burnish_tokens",
            "Tokens prompted (cached ones too), cached, and generated.",
            ["kind"],
            registry=own,
        )
        self._queue = Gauge("burnish_queue_length", "Answers that wait to begin.", registry=own)

    def answered(self, route: str, status: int, seconds: float, usage: Usage) -> None:
        """Count one request; `route` is the route's pattern, so that single files do not become
        series."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if usage.first is not None:
            self._first.labels(route).observe(usage.first)
        for kind in ("prompt", "cached", "generated"):
            self._tokens.labels(kind).inc(getattr(usage, kind))

    def watch_queue(self, length: Callable[[], int]) -> None:
        """Register the function that returns the current length of the queue."""
        self._queue.set_function(length)

    def watch_jobs(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Register the function that returns the number of jobs per status; call it once."""
        self.registry.register(_Jobs(counts))

    def response(self) -> Response:
        """Return the metrics as the response of `/metrics`."""
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)


class _Jobs(Collector):
    def __init__(self, counts: Callable[[], Mapping[str, int]]) -> None:
        self._counts = counts

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Return the metric's name without querying the database."""
        return [GaugeMetricFamily("burnish_jobs", "Jobs by status.", labels=["status"])]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Return the current number of jobs per status."""
        family = GaugeMetricFamily("burnish_jobs", "Jobs by status.", labels=["status"])
        for status, count in sorted(self._counts().items()):
            family.add_metric([status], count)
        yield family
