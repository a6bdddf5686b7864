"""A short run of the fuzzer, and that it would tell."""

from __future__ import annotations

import random

from . import __main__ as fuzz
from .inputs import an_input


def test_malformed_input_is_refused_by_all_that_read_it_and_the_server_stays_well():
    report = fuzz.run(600, seed=1, every=20)
    assert not report.wrong, str(report)
    assert report.sent == 30
    assert 0.5 < report.refused / report.fed < 0.95


def test_what_crashes_or_takes_long_is_told(monkeypatch):
    def crashes(data, _):
        return data[10**6]

    monkeypatch.setattr(fuzz, "MOST_SECONDS", 0.0)
    report = fuzz.Report()
    report.feed("input 7, a reader", crashes, b"data", random.Random(0))
    assert "IndexError" in report.wrong[0]
    assert report.wrong[1].startswith("input 7, a reader took")


def test_an_input_follows_from_its_seed():
    made = [an_input(random.Random(f"1-{number}")) for number in range(50)]
    assert made == [an_input(random.Random(f"1-{number}")) for number in range(50)]
    assert len(set(made)) > 40
