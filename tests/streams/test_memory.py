"""The memory that a stream takes, which is that of its window: row 62 of the matrix."""

from __future__ import annotations

import os

import pytest

from hybrid_compute import HybridExecutor, task
from tests.server.raw import rss
from tests.streams import work

MB = 1 << 20
WINDOW = 8


@pytest.mark.parametrize("place", ["thread", "process"])
def test_memory_does_not_grow_with_what_has_passed(place):
    count = 512  # half a gigabyte in all
    with HybridExecutor(max_processes=1) as ex:
        view = ex.options(executor=place, buffersize=WINDOW)
        pids = {os.getpid(), view.submit(task(os.getpid)).result(60)}
        before: dict[int, int] = {}
        for number, block in enumerate(view.stream(work.blocks, count, MB)):
            assert (block[0], len(block)) == (number % 256, MB)
            if number == 4 * WINDOW:  # by then it has all that it needs
                before = {pid: rss(pid) for pid in pids}
        grown = {pid: rss(pid) - before[pid] for pid in pids}
    assert max(grown.values()) < 4 * WINDOW * MB
