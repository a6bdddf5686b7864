"""The server: declared tasks for callers elsewhere, over HTTP and WebSocket on one port.

`create_app` gives an ASGI application; `hybrid-compute serve MODULE:NAME` runs one with uvicorn::

    request --> gate: Host, Origin, token --> http | websocket: bytes <-> calls
                                                    |
             catalog: name -> task, arguments checked --> service: limits, executor, audit
                                                    |
                                             HybridExecutor (processes)

    settings   limits: sizes, times, counts           tokens   who may call what
    catalog    names, checks, JSON Schema              gate     what a request's headers must say
    service    calls that run: begun, ended, counted   http, websocket    the two ways in
    app        the ASGI application                    _serve (above)     the command, and uvicorn
    wire       uvicorn's protocols, with deadlines     logs               lines that wait for nobody
    workers    what worker processes do without

The names are imported when they are first used (PEP 562): without the extra `server` the package
itself can be imported, and worker processes, which need `workers` only, do not load the rest.

Security: `gate` and `tokens` decide before a body is read; a name is looked up in a dict that was
made at the start; nothing from the wire is unpickled or imported.

Threads and locks: everything runs on the event loop, but for the ends of futures, which come from
the executor's threads and are handed to the loop by `service.Mail`, and for `cancel_running`, which
blocks and has two threads of its own. No lock is held anywhere while something is waited for.

Why no order of events can hang. A call that was admitted is released by the end of its future, and
the executor sees to it that each future ends; a connection that is lost cancels its calls; reading
has deadlines; draining has one, after which it ends what runs.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # as typing's, which takes longer to import than all of this
if TYPE_CHECKING:
    from typing import Any

    from hybrid_compute.server.app import App, create_app
    from hybrid_compute.server.logs import BoundedHandler
    from hybrid_compute.server.settings import Limits
    from hybrid_compute.server.tokens import Token, Tokens

__all__ = ["App", "BoundedHandler", "Limits", "Token", "Tokens", "create_app"]

_HOMES = {
    "App": "app",
    "BoundedHandler": "logs",
    "Limits": "settings",
    "Token": "tokens",
    "Tokens": "tokens",
    "create_app": "app",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("hybrid_compute"):
            raise
        raise ModuleNotFoundError(
            f"hybrid_compute.server.{name} needs {error.name}: "
            "pip install 'hybrid-compute[server]'",
            name=error.name,
        ) from error
    globals()[name] = value  # the next access finds it at once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
