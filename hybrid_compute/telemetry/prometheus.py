"""Prometheus: what an executor does, as metrics to be scraped (extra `prometheus`).

`Metrics` is an observer, made for one executor; `Metrics.text` is what a scrape gets, which
`hybrid-compute serve --metrics` answers at `/metrics`. What an executor has queued and runs is
asked at the moment of the scrape; all else is counted as events come.

Threads: an observer is called on any. The client's metrics have locks of their own. `_submitted` is
a dict by the items' numbers; who ends an item takes it out, and only one can.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hybrid_compute.errors import ConfigurationError

try:
    from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
    from prometheus_client.exposition import CONTENT_TYPE_LATEST
    from prometheus_client.metrics_core import GaugeMetricFamily
    from prometheus_client.registry import Collector
except ImportError as _error:
    raise ImportError(
        "hybrid_compute.telemetry.prometheus needs prometheus-client: "
        "pip install 'hybrid-compute[prometheus]'"
    ) from _error

if TYPE_CHECKING:
    from hybrid_compute.events import Event
    from hybrid_compute.hybrid import HybridExecutor

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE: str = CONTENT_TYPE_LATEST  # of what `Metrics.text` returns

_ENDS = frozenset({"succeeded", "failed", "cancelled"})


class Metrics:
    """An observer that counts what becomes of the items of one executor.

    `HybridExecutor(observers=[Metrics()])`. By task and executor (the last one that had the item;
    "" if none had):

    - `hybrid_compute_items_total`, also by `outcome`: "succeeded", "failed" or "cancelled";
    - `hybrid_compute_item_duration_seconds`, from submission to end;
    - `hybrid_compute_attempt_duration_seconds`, for which an attempt ran, where it had begun;
    - `hybrid_compute_retries_total`, attempts that followed another;
    - `hybrid_compute_cost_total`, in the currency of the prices.

    A chunk of a map is one item. By executor, at the moment of the scrape:
    `hybrid_compute_items_queued`, `hybrid_compute_items_running`, `hybrid_compute_workers`.

    Args:
        registry: where the metrics are; None: one of its own. `prometheus_client.REGISTRY` is
            the global one.

    Attributes:
        registry: that one.

    Raises:
        ConfigurationError: the registry has such metrics already.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry: Any = CollectorRegistry() if registry is None else registry
        by = ("task", "executor")
        try:
            self._items = Counter(
                "hybrid_compute_items",
                "Items that are over.",
                (*by, "outcome"),
                registry=self.registry,
            )
        except ValueError as error:
            raise ConfigurationError(
                f"Metrics({self.registry!r}): the registry has such metrics already; give each "
                "executor a registry of its own"
            ) from error
        self._duration = Histogram(
            "hybrid_compute_item_duration_seconds",
            "Time from the submission of an item to its end.",
            by,
            registry=self.registry,
        )
        self._attempts = Histogram(
            "hybrid_compute_attempt_duration_seconds",
            "Time for which an attempt ran.",
            by,
            registry=self.registry,
        )
        self._retries = Counter(
            "hybrid_compute_retries",
            "Attempts that followed another one of the same item.",
            by,
            registry=self.registry,
        )
        self._cost = Counter(
            "hybrid_compute_cost", "What attempts have cost.", by, registry=self.registry
        )
        self._submitted: dict[int, float] = {}
        self._attached = False

    def attach(self, executor: HybridExecutor) -> None:
        """Be told whose items these are; called by HybridExecutor.

        Raises:
            ConfigurationError: another executor has it already, whose items have the same numbers.
        """
        if self._attached:
            raise ConfigurationError(
                f"{self!r} observes an executor already; make a Metrics() for each"
            )
        self._attached = True
        self.registry.register(_Loads(executor))

    def text(self) -> bytes:
        """Return all metrics of the registry, as a scrape wants them. Any thread."""
        return generate_latest(self.registry)

    def __call__(self, event: Event) -> None:
        """Take note of a step of an item. Does not block; any thread."""
        kind = event.kind
        if kind == "submitted":
            self._submitted[event.item_id] = event.time
            return
        labels = (event.name, event.executor or "")
        if event.seconds is not None:
            self._attempts.labels(*labels).observe(event.seconds)
        if event.cost:
            self._cost.labels(*labels).inc(event.cost)
        if kind == "retried":
            self._retries.labels(*labels).inc()
        elif kind in _ENDS:
            submitted = self._submitted.pop(event.item_id, event.time)
            self._items.labels(*labels, kind).inc()
            self._duration.labels(*labels).observe(max(0.0, event.time - submitted))


class _Loads(Collector):
    """Asks an executor what it does, as long as there is one."""

    def __init__(self, executor: HybridExecutor) -> None:
        self._executor = weakref.ref(executor)

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Say what there will be, without asking: the executor is still being made."""
        return _gauges()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Ask."""
        queued, running, workers = gauges = _gauges()
        executor = self._executor()
        if executor is not None:
            for name, each in executor.stats().executors.items():
                queued.add_metric((name,), each.queued)
                running.add_metric((name,), each.running)
                workers.add_metric((name,), each.workers)
        return gauges


def _gauges() -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
    by = ("executor",)
    return (
        GaugeMetricFamily("hybrid_compute_items_queued", "Items that wait.", labels=by),
        GaugeMetricFamily("hybrid_compute_items_running", "Items that run.", labels=by),
        GaugeMetricFamily("hybrid_compute_workers", "Most items that run at once.", labels=by),
    )
