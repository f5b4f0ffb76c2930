"""What the service counts, for Prometheus. Every label has a small, fixed set of values."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

STAGES = ("upload", "decode", "plan", "queue", "network", "merge", "encode")

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_FILL = (0.125, 0.25, 0.5, 0.75, 0.9, 1.0)


class Metrics:
    """Counters of one app, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "bpr_requests", "Answers by route and status", ["route", "status"],
            registry=self.registry,
        )  # fmt: skip
        self.latency = Histogram(
            "bpr_request_seconds", "From the first byte to the answer's end", ["route"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._stages = Histogram(
            "bpr_stage_seconds", "Time that refined requests spent in each stage", ["stage"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.rejections = Counter(
            "bpr_rejections", "Requests that were not answered with masks", ["reason"],
            registry=self.registry,
        )  # fmt: skip
        self.client_requests = Counter(
            "bpr_client_requests", "Answers by name of the API key and status", ["key", "status"],
            registry=self.registry,
        )  # fmt: skip
        self.jobs = Counter("bpr_jobs", "Jobs that ended", ["status"], registry=self.registry)
        self.instances = Counter("bpr_instances", "Instances refined", registry=self.registry)
        self.patches = Counter("bpr_patches", "Patches predicted", registry=self.registry)
        self.batch_fill = Histogram(
            "bpr_batch_fill", "Patches of a batch / batch size", buckets=_FILL,
            registry=self.registry,
        )  # fmt: skip

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """Report a value as it is at every scrape."""
        Gauge(name, what, registry=self.registry).set_function(value)

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Add the time that a request spent in one of STAGES."""
        self._stages.labels(stage).observe(seconds)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
