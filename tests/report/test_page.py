"""The page and the trace: what stands in them. How the page looks, test_browser looks at."""

from __future__ import annotations

import base64
import json
import re
from array import array

import pytest

from hybrid_compute.report import page_of, trace_of
from hybrid_compute.report._run import parse_run

from .runs import lines, many, row


def data_of(page):
    return json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', page, re.DOTALL)[1])


def column(kind, text):
    return list(array(kind, base64.b64decode(text)))


def parse(*rows):
    return parse_run(lines(*rows), name="folder/run.jsonl")


def table_of(page):
    body = page[page.index("<tbody>") : page.index("</tbody>")]
    return [
        [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", line)]
        for line in re.findall(r"<tr>.*?</tr>", body)
    ]


def test_the_page_loads_nothing_from_anywhere():
    page = page_of(parse(row()))
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)|url\((?!data:)|@import|fetch\(""", page)
    assert "default-src 'none'" in page


def test_the_columns_are_the_attempts_lane_by_lane():
    data = data_of(
        page_of(
            parse(
                row(7, "b", submitted_ns=5, waited_ns=10, took_ns=100, calls=3, attempt=2),
                row(8, "a", "gpu", None, took_ns=900, predicted_ns=44, outcome="failed", error="E"),
            )
        )
    )
    assert (data["tick_ns"], data["length"], data["count"]) == (1, 900, 2)
    assert [lane["first"] for lane in data["lanes"]] == [0, 1]
    assert column("I", data["begin"]) == [15, 0]
    assert column("I", data["took"]) == [100, 900]
    assert column("I", data["submitted"]) == [5, 0]
    assert column("I", data["id"]) == [7, 8]
    assert column("I", data["predicted"]) == [4294967295, 44]
    assert [data["tasks"][each] for each in column("H", data["task"])] == ["b", "a"]
    assert [data["outcomes"][each] for each in column("B", data["outcome"])] == ["ok", "failed"]
    assert (data["calls"], data["attempt"]) == ({"0": 3}, {"0": 2})
    assert [data["errors"][data["error"]["1"]]] == ["E"]


def test_a_long_run_has_coarser_ticks():
    data = data_of(page_of(parse(row(took_ns=36_000_000_000_000))))
    assert data["tick_ns"] == 8382
    assert column("I", data["took"]) == [36_000_000_000_000 // 8382]


def test_the_table_tells_where_each_task_ran_and_how_it_was_predicted():
    page = page_of(
        parse(
            row(1, "f", took_ns=2_000_000, predicted_ns=1_000_000),
            row(1, "f", submitted_ns=0, waited_ns=1000, took_ns=4_000_000, attempt=2, calls=5),
            row(2, "f", outcome="retried", took_ns=3_000_000),
            row(2, "f", outcome="failed", took_ns=3_000_000),
            row(3, "f", "process", "40", took_ns=1_000),
        )
    )
    assert table_of(page) == [
        [
            *("f", "thread", "3", "7", "1", "1"),
            *("0", "3 ms", "4 ms", "12 ms", "1 ms", "2 ms", "&times;2"),
        ],
        ["f", "process", "1", "1", "", "", "0", "1 us", "1 us", "1 us", "", "", ""],
    ]


def test_what_never_began_has_no_times_in_the_table():
    page = page_of(parse(row(outcome="cancelled", waited_ns=None)))
    assert table_of(page) == [["f", "thread", "1", "1", *[""] * 9]]


@pytest.mark.parametrize("name", ["</script><script>alert(1)</script>", "<b>&\"'", "@@DATA@@"])
def test_no_name_ends_its_element(name):
    page = page_of(parse(row(task=name, outcome="failed", error=name)))
    assert page.count("<script") == page_of(parse(row())).count("<script")
    assert data_of(page)["tasks"] == data_of(page)["errors"] == [name]
    assert "<b>&" not in page[: page.index("<script")]


def test_an_empty_recording_makes_a_page():
    assert data_of(page_of(parse()))["count"] == 0


def test_100_000_items_take_less_than_5_megabytes():
    sizes = [len(page_of(parse_run(many(count), name="run"))) for count in (2000, 6000)]
    # By the item, since making all of them here would take seconds.
    assert sizes[0] + (sizes[1] - sizes[0]) / 4000 * 98_000 < 5e6


# The trace.


def events(run, phase):
    data = json.loads(trace_of(run))
    return [each for each in data["traceEvents"] if each["ph"] == phase]


def test_the_trace_has_a_process_for_each_executor_and_a_thread_for_each_track():
    run = parse(
        row(1, lane="t_0"),
        row(2, lane="t_1"),
        row(3, executor="gpu", lane=None),
        row(4, executor="gpu", lane=None),
    )
    names = [(each["name"], each["args"].get("name")) for each in events(run, "M")]
    assert [name for kind, name in names if kind == "process_name"] == ["thread", "gpu"]
    threads = [name for kind, name in names if kind == "thread_name"]
    assert threads == ["t_0", "t_1", "gpu", "gpu (2)"]
    assert len({(each["pid"], each["tid"]) for each in events(run, "X")}) == 4


def test_an_attempt_is_a_complete_event_in_microseconds():
    run = parse(
        row(5, "f", submitted_ns=1000, waited_ns=2500, took_ns=9000, outcome="retried", error="E")
    )
    (bar,) = events(run, "X")
    assert (bar["name"], bar["cat"], bar["ts"], bar["dur"]) == ("f", "retried", 3.5, 9.0)
    assert bar["args"] == {"id": 5, "outcome": "retried", "waited_us": 2.5, "error": "E"}


def test_the_counters_of_the_trace_end_at_nothing():
    values = {each["name"]: each["args"] for each in events(parse_run(many(500), name="r"), "C")}
    assert values == {"queued": {"queued": 0}, "running": {"running": 0}}
