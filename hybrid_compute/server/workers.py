"""Workers: what the server and its worker processes do without. Secrets, and core dumps of them.

Runs in the server and, as their initializer, in its workers: imports next to nothing. No state.
"""

from __future__ import annotations

import os
import resource

__all__ = ["harden"]

_SECRET = ("HYBRID_COMPUTE_TOKEN", "HYBRID_COMPUTE_SIGNING_KEY")


def harden() -> None:
    """Take all tokens and keys out of this process's environment, and have it dump no core."""
    for name in [each for each in os.environ if each.startswith(_SECRET)]:
        del os.environ[name]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
