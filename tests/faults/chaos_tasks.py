"""The tasks of `chaos`: each notes that it runs, rests, and gives a number.

A new worker that has to import much before it can run its item is all the longer in danger, so
this module imports next to nothing.
"""

from __future__ import annotations

import os
import time


def note_run(runs, n):
    fd = os.open(runs, os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"x")
    os.close(fd)
    return n


def rest(runs, seconds, n):
    note_run(runs, n)
    if seconds:
        time.sleep(seconds)
    return n


def sum_large(runs, seconds, n, data):
    return rest(runs, seconds, n) + sum(data[::1000])


def give_large(runs, seconds, n):
    return rest(runs, seconds, n), bytearray(500_000), bytes(300_000)
