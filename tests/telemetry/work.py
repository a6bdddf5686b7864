"""Tasks that make spans of their own, for worker processes and servers."""

from __future__ import annotations

from opentelemetry import trace

from hybrid_compute import TaskRegistry

TASKS = TaskRegistry()


@TASKS.task
def parent(value=None):
    """Return the span in which the work runs: trace and span id."""
    context = trace.get_current_span().get_span_context()
    return context.trace_id, context.span_id


@TASKS.task
def parents(count):
    for _ in range(count):
        yield parent.fn()


def plain_parent():
    return parent.fn()
