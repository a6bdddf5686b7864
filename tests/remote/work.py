"""Tasks for the real server that the tests of remote execution start."""

import os
import time

from hybrid_compute import task


@task
def until(path: str) -> str:
    """Run until there is a file of that name, a minute at most; another one tells that it runs."""
    open(f"{path}.begun", "w").close()
    for _ in range(6000):
        if os.path.exists(path):
            return "done"
        time.sleep(0.01)
    return "never"


TASKS = [until]
