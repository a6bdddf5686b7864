"""OpenTelemetry: a span for each item, its attempts as children, and metrics (extra `otel`).

`Telemetry` is an observer, made for one executor. It needs the API only: which SDK, exporters and
sampling there are is the program's business, and without an SDK all of this does next to nothing.

    the caller's span
       `- "NAME"                      an item: from its submission to its end
             `- "NAME attempt"        each time that an executor has it
                   `- what the work makes: here, in a worker process, or at a service

The attempt is the current span of the work itself, if that is a declared task: the observer puts it
into the context in which the work runs. `TRACE`, listed in `HybridExecutor(carry=[...])`, takes it
along: to worker processes, to services of ours (`create_app(..., context=[TRACE])`), and, as the
header `traceparent` and whatever else the global propagator writes, over HTTP to anybody.

Names follow the semantic conventions where these have any: `error.type`, `exception` events, units
and buckets of durations.

Threads: an observer is called on any. `_items` is a dict by the items' numbers, of which each is
touched by one thread at a time; who ends an item takes it out, and only one can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Any

from hybrid_compute._failures import text_of, type_name_of
from hybrid_compute.errors import ConfigurationError

try:
    from opentelemetry import context as otel_context
    from opentelemetry import metrics, propagate, trace
except ImportError as _error:
    raise ImportError(
        "hybrid_compute.telemetry.otel needs opentelemetry-api: pip install 'hybrid-compute[otel]'"
    ) from _error

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    from hybrid_compute.events import Event

__all__ = ["TRACE", "Telemetry"]

_SCOPE = "hybrid_compute"
# Seconds; the buckets that the conventions have for durations of requests.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_ENDS = frozenset({"succeeded", "failed", "cancelled"})


class _Item:
    """What is known of an item that is not over."""

    __slots__ = ("attempts", "span", "submitted")

    def __init__(self, span: Span, submitted: float) -> None:
        self.span = span
        self.submitted = submitted
        self.attempts: dict[int, Span] = {}  # those that are out, by their numbers


class Telemetry:
    """An observer that tells OpenTelemetry of the items of one executor.

    `HybridExecutor(observers=[Telemetry()], carry=[TRACE])`. Spans have the attributes
    `hybrid_compute.item.id`, `.calls` (a chunk of a map is several), `.executor` and `.attempt`;
    one that failed has the status of an error, `error.type`, and the exception as an event.
    Metrics, each by `hybrid_compute.task`, `hybrid_compute.executor`, `hybrid_compute.outcome` and,
    of failures, `error.type`:

    - `hybrid_compute.item.duration`, seconds from submission to end;
    - `hybrid_compute.attempt.duration`, seconds for which an attempt ran, where it had begun;
    - `hybrid_compute.item.active`, items that are not over;
    - `hybrid_compute.item.retries`, attempts that followed another.

    Args:
        tracer_provider: makes the spans; None: the global one.
        meter_provider: makes the metrics; None: the global one.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer(_SCOPE, tracer_provider=tracer_provider)
        meter = metrics.get_meter(_SCOPE, meter_provider=meter_provider)
        self._duration = meter.create_histogram(
            "hybrid_compute.item.duration",
            unit="s",
            description="Time from the submission of an item to its end.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._attempt_duration = meter.create_histogram(
            "hybrid_compute.attempt.duration",
            unit="s",
            description="Time for which an attempt ran.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._active = meter.create_up_down_counter(
            "hybrid_compute.item.active",
            unit="{item}",
            description="Items that were submitted and are not over.",
        )
        self._retries = meter.create_counter(
            "hybrid_compute.item.retries",
            unit="{attempt}",
            description="Attempts that followed another one of the same item.",
        )
        self._items: dict[int, _Item] = {}
        self._attached = False

    def attach(self, executor: object) -> None:
        """Be told whose items these are; called by HybridExecutor.

        Raises:
            ConfigurationError: another executor has it already, whose items have the same numbers.
        """
        if self._attached:
            raise ConfigurationError(
                f"{self!r} observes an executor already; make a Telemetry() for each"
            )
        self._attached = True

    def __call__(self, event: Event) -> None:
        """Take note of a step of an item. Does not block; any thread."""
        kind = event.kind
        if kind == "submitted":
            self._submitted(event)
            return
        item = self._items.pop(event.item_id, None) if kind in _ENDS else None
        item = item or self._items.get(event.item_id)
        if item is None:
            return
        if kind == "routed":
            self._routed(item, event)
        elif kind == "started":
            attempt = item.attempts.get(event.attempt)
            if attempt is not None:
                attempt.add_event("started")
        elif kind in ("retried", "dropped"):
            if kind == "retried":
                self._retries.add(1, _labels(event))
            self._end_attempt(item, event)
        elif kind in _ENDS:
            self._end_attempt(item, event)
            self._end(item, event)
        else:
            item.span.add_event(kind, {"hybrid_compute.reason": event.reason or ""})

    def _submitted(self, event: Event) -> None:
        # The submitter's span is its parent; he need not be on this thread, if it is of a map.
        context = event.context
        span = self._tracer.start_span(
            event.name,
            context=None if context is None else context.run(otel_context.get_current),
            attributes={
                "hybrid_compute.item.id": event.item_id,
                "hybrid_compute.calls": event.calls,
            },
        )
        self._items[event.item_id] = _Item(span, event.time)
        self._active.add(1, {"hybrid_compute.task": event.name})

    def _routed(self, item: _Item, event: Event) -> None:
        inside = trace.set_span_in_context(item.span)
        attempt = item.attempts[event.attempt] = self._tracer.start_span(
            f"{event.name} attempt",
            context=inside,
            attributes={
                "hybrid_compute.executor": event.executor or "",
                "hybrid_compute.attempt": event.attempt,
            },
        )
        if event.context is not None:
            event.context.run(_enter, attempt)

    def _end_attempt(self, item: _Item, event: Event) -> None:
        attempt = item.attempts.pop(event.attempt, None)
        if attempt is None:
            return  # it was cancelled before anybody had it
        _conclude(attempt, event)
        if event.seconds is not None:
            self._attempt_duration.record(event.seconds, _labels(event))

    def _end(self, item: _Item, event: Event) -> None:
        if event.executor is not None:
            item.span.set_attribute("hybrid_compute.executor", event.executor)
        for other in item.attempts.values():  # hedged, and given up: nobody waits for its end
            other.set_attribute("hybrid_compute.outcome", "dropped")
            other.end()
        _conclude(item.span, event)
        self._duration.record(max(0.0, event.time - item.submitted), _labels(event))
        self._active.add(-1, {"hybrid_compute.task": event.name})


def _enter(span: Span) -> None:
    otel_context.attach(trace.set_span_in_context(span))


def _labels(event: Event) -> dict[str, str]:
    labels = {
        "hybrid_compute.task": event.name,
        "hybrid_compute.executor": event.executor or "",
        "hybrid_compute.outcome": event.kind,
    }
    if event.error is not None:
        labels["error.type"] = type_name_of(type(event.error))
    return labels


def _conclude(span: Span, event: Event) -> None:
    """Say how it ended, and end it."""
    span.set_attribute("hybrid_compute.outcome", event.kind)
    if event.error is not None:
        span.set_attribute("error.type", type_name_of(type(event.error)))
        span.record_exception(event.error)
        span.set_status(trace.Status(trace.StatusCode.ERROR, text_of(event.error)))
    span.end()


class _Trace:
    """What goes along: what the global propagator writes, such as `traceparent`."""

    name = "traceparent"
    module = __name__
    attribute = "TRACE"

    def capture(self, context: Context) -> dict[str, str] | None:
        """Return what stands for the current span of a context; None: there is none."""
        carrier: dict[str, str] = {}
        context.copy().run(propagate.inject, carrier)  # a copy: nobody else is in that
        return carrier or None

    def restore(self, value: Any) -> None:
        """Make that the parent of what is made in the current context."""
        if isinstance(value, Mapping):
            known = {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, str)}
            otel_context.attach(propagate.extract(known))

    def headers(self, value: dict[str, str]) -> dict[str, str]:
        """Return the headers for it, which are those of W3C Trace Context by default."""
        return value

    def from_headers(self, get: Callable[[str], str | None]) -> dict[str, str] | None:
        """Return what the headers of a request say; None: nothing."""
        found = {name: get(name) for name in propagate.get_global_textmap().fields}
        return {name: value for name, value in found.items() if value is not None} or None

    def __repr__(self) -> str:
        return "hybrid_compute.telemetry.otel.TRACE"


#: Takes the trace along, in `HybridExecutor(carry=[TRACE])` and `create_app(..., context=[TRACE])`.
TRACE = _Trace()
