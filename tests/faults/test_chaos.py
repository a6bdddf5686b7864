"""A sum is right although workers are killed at random: row 27, in short. See `chaos`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from . import chaos
from .processes import ROOT


@pytest.mark.parametrize("kind", ["process", "options"])
def test_a_sum_is_right_although_workers_are_killed_at_random(kind):
    report = chaos.run(1.5, tasks=3_000, kills_per_second=40, least_kills=20, kind=kind)
    assert report.is_good(), str(report)
    assert report.kills >= 20
    assert report.retries > 0


def test_so_it_is_with_a_service_that_is_killed_and_a_network_that_is_cut():
    call = [sys.executable, "-m", "benchmarks.chaos", "--seconds", "3", "--seed", "5"]
    done = subprocess.run(call, check=False, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
