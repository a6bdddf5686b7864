"""A Dask cluster in processes of its own: prints its address, ends when its stdin does."""

from __future__ import annotations

import logging
import subprocess
import sys


class Cluster:
    """One such cluster.

    Attributes:
        address: of its scheduler.
        process: the scheduler's, the parent of the workers'.
    """

    def __init__(self, workers: int):
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(workers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = self.process.stdout.readline().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


if __name__ == "__main__":
    import dask
    from distributed import LocalCluster

    # It would give up a worker that is killed and takes long to come again.
    dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"})
    with LocalCluster(
        n_workers=int(sys.argv[1]),
        threads_per_worker=1,
        resources={"slot": 1},
        dashboard_address=":0",
        silence_logs=logging.CRITICAL + 1,
    ) as made:
        print(made.scheduler_address, flush=True)
        sys.stdin.read()
