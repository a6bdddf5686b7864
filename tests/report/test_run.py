"""What a recording is read as: attempts, lanes, tracks; and what is no recording."""

from __future__ import annotations

import json

import pytest

from hybrid_compute import HybridExecutor
from hybrid_compute.errors import RecordingError
from hybrid_compute.report import read_run
from hybrid_compute.report._run import parse_run

from .runs import HEADER, lines, many, row


def parse(*rows):
    return parse_run(lines(*rows), name="run.jsonl")


def bars(lane):
    return [(each.begun, each.ended, each.track) for each in lane.attempts]


def test_what_was_recorded_is_read(tmp_path):
    path = tmp_path / "run.jsonl"
    with HybridExecutor(1, "crew") as ex, ex.record(path):
        ex.submit(abs, -1).result()
        ex.submit(divmod, 1, 0).exception()
    run = read_run(path)
    assert (run.name, set(run.tasks), run.cut) == ("run.jsonl", {"abs", "divmod"}, False)
    (lane,) = run.lanes
    assert (lane.executor, lane.name, lane.tracks) == ("thread", "crew_0", 1)
    assert [each.outcome for each in lane.attempts] == ["ok", "failed"]
    assert lane.attempts[1].error.startswith("ZeroDivisionError: ")
    assert run.length == lane.attempts[1].ended


def test_lanes_stand_in_the_order_of_the_fleet_and_of_their_numbers():
    run = parse(
        row(1, executor="gpu", lane=None),
        row(2, lane="t_10"),
        row(3, lane="t_9"),
        row(4, executor="inline", lane="MainThread"),
        row(5, executor=None, lane=None, waited_ns=None, outcome="failed"),
    )
    assert [(lane.executor, lane.name) for lane in run.lanes] == [
        ("inline", "MainThread"),
        ("thread", "t_9"),
        ("thread", "t_10"),
        ("gpu", None),
        (None, None),
    ]


def test_what_overlaps_in_a_lane_is_put_side_by_side():
    run = parse(
        row(1, executor="gpu", lane=None, submitted_ns=0, took_ns=100),
        row(2, executor="gpu", lane=None, submitted_ns=50, took_ns=100),
        row(3, executor="gpu", lane=None, submitted_ns=100, took_ns=100),
    )
    assert bars(run.lanes[0]) == [(0, 100, 0), (50, 150, 1), (100, 200, 0)]
    assert run.lanes[0].tracks == 2


def test_a_call_of_a_worker_begins_when_the_one_before_it_has_ended():
    run = parse(
        row(1, executor="process", lane="40", submitted_ns=0, took_ns=1_000_000),
        row(2, executor="process", lane="40", submitted_ns=0, took_ns=3_000_000),
    )
    assert bars(run.lanes[0]) == [(0, 1_000_000, 0), (1_000_000, 3_000_000, 0)]


def test_calls_whose_results_came_together_share_the_time():
    run = parse(
        *(row(n, executor="process", lane="40", took_ns=900_000 + n) for n in (1, 2, 3)),
    )
    assert bars(run.lanes[0]) == [(0, 300_001, 0), (300_001, 600_002, 0), (600_002, 900_003, 0)]


def test_a_chunk_begins_when_its_calls_did():
    run = parse(row(executor="process", lane="40", took_ns=1_000_000, work_ns=400_000, calls=9))
    assert bars(run.lanes[0]) == [(600_000, 1_000_000, 0)]


def test_tasks_are_ordered_by_the_time_that_they_took():
    assert parse(row(1, task="a"), row(2, task="b", took_ns=5000)).tasks == ("b", "a")


def test_bars_of_a_track_never_overlap():
    for lane in parse_run(many(3000), name="run").lanes:
        free = [0] * lane.tracks
        for each in lane.attempts:
            assert free[each.track] <= each.begun <= each.ended
            free[each.track] = each.ended


def test_the_last_line_of_a_program_that_was_killed_is_left_out():
    run = parse_run([*lines(row()), '{"id":2,"ta'], name="run")
    assert (len(run.attempts), run.cut) == (1, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ([], "run is empty; a recording begins with a header"),
        (['{"v": 1, "cores": 2}\n'], "run is no recording: its first line is no header"),
        (["no JSON\n"], "run is no recording"),
        ([json.dumps(HEADER | {"recording": 9})], "version 9 is not the one that is read here, 1"),
        ([json.dumps(HEADER | {"cores": "two"})], "run, line 1, 'cores': 'two' cannot be"),
        ([*lines(), "{}\n"], r"run, line 2: '\{\}' is no attempt \(KeyError\('id'\)\)"),
        (lines(row(outcome="fine")), r"run, line 2: .*no such outcome"),
        (lines(row(took_ns=0.5)), r"run, line 2: .*no whole number"),
        ([*lines(), "no JSON\n", *lines(row())], "run, line 2: no JSON"),
    ],
)
def test_what_is_no_recording_is_refused_with_its_line(text, words):
    with pytest.raises(RecordingError, match=words):
        parse_run(text, name="run")
