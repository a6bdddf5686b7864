"""A sum is right although workers are killed at random: row 27, in short. See `chaos`."""

from __future__ import annotations

import pytest

from . import chaos


@pytest.mark.parametrize("kind", ["process", "options"])
def test_a_sum_is_right_although_workers_are_killed_at_random(kind):
    report = chaos.run(2.0, tasks=5_000, kills_per_second=30, kind=kind)
    assert report.is_good(), str(report)
    assert report.kills >= 15
    assert report.retries > 0
