"""Telemetry: what items do, for OpenTelemetry (`otel`) and Prometheus (`prometheus`).

Each module needs an extra of its name, and is imported by who wants it. No state.
"""

from __future__ import annotations

__all__: list[str] = []
