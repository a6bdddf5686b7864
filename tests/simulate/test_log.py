"""The log's lines: what is written is read again, and what is wrong is refused by its place."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_compute.errors import DecisionLogError
from hybrid_compute.simulate import ExecutorRecord, Header, ItemRecord, parse_log, read_log
from hybrid_compute.simulate.log import to_line

HEADER = {"v": 1, "cores": 2, "fleet": {"thread": {"workers": 4, "shares_memory": True}}}
ITEM = {
    "v": 1,
    "id": 1,
    "task": "resize",
    "submitted": 0.5,
    "executor": "thread",
    "started": 0.75,
    "ended": 1.0,
    "ok": True,
}


def parse(*lines):
    return parse_log(each if isinstance(each, str) else json.dumps(each) for each in lines)


def test_a_line_of_an_item_says_all_that_is_known_of_it():
    record = ItemRecord(
        id=3, task="resize", submitted=0.1, executor="thread", started=0.2, ended=0.3, ok=True
    )
    assert json.loads(to_line(record)) == {
        "v": 1,
        "id": 3,
        "task": "resize",
        "submitted": 0.1,
        "executor": "thread",
        "started": 0.2,
        "ended": 0.3,
        "ok": True,
        "wall": None,
        "cpu": None,
        "gil": None,
        "bytes": None,
        "rule": None,
        "predicted": {},
    }


def test_a_header_says_what_the_fleet_is():
    fleet = {"far": ExecutorRecord(workers=8, remote=True, rtt=0.01, per_call=0.5)}
    assert json.loads(to_line(Header(cores=4, fleet=fleet))) == {
        "v": 1,
        "cores": 4,
        "fleet": {
            "far": {
                "workers": 8,
                "shares_memory": False,
                "isolates": False,
                "remote": True,
                "blocks": False,
                "rtt": 0.01,
                "per_call": 0.5,
            }
        },
    }


SECONDS = st.floats(0, 1e6).map(lambda each: round(each, 9))
MAYBE = st.none() | SECONDS


@given(
    st.builds(
        ItemRecord,
        id=st.integers(0, 2**53),
        task=st.text(min_size=1),
        submitted=st.just(0.0),
        executor=st.just("thread"),
        started=MAYBE.map(lambda each: None if each is None else 0.0),
        ended=SECONDS,
        ok=st.booleans(),
        wall=MAYBE,
        cpu=MAYBE,
        gil=st.none() | st.sampled_from([0.0, 0.25, 1.0]),
        bytes=st.none() | st.integers(0, 2**40),
        rule=st.none() | st.just("waits"),
        predicted=st.dictionaries(st.sampled_from(["thread", "far"]), SECONDS),
        declared=st.booleans(),
        pinned=st.sampled_from([None, "thread"]),
        movable=st.sampled_from([None, True, False]),
        local_only=st.booleans(),
        tags=st.lists(st.sampled_from(["gpu", "big"]), unique=True).map(tuple),
    )
)
def test_what_is_written_is_read_again(record):
    assert parse(HEADER, to_line(record)).items == (record,)


def test_items_come_in_order_of_submission_and_empty_lines_are_passed_over():
    later, sooner = ITEM | {"id": 1}, ITEM | {"id": 2, "submitted": 0.25}
    assert [each.id for each in parse("\n", HEADER, later, "", sooner, "  ").items] == [2, 1]


@pytest.mark.parametrize(
    ("lines", "line", "key", "words"),
    [
        ([], None, None, "empty"),
        (["{"], 1, None, "no JSON"),
        ([HEADER, '{"v":1,"id":'], 2, None, "delete that line"),
        (["[1]"], 1, None, "JSON object"),
        ([ITEM], 1, "fleet", "its header"),
        ([HEADER | {"v": 2}], 1, "v", "version 2"),
        ([{"cores": 2, "fleet": {}}], 1, "v", "version None"),
        ([HEADER, ITEM | {"v": True}], 2, "v", "version True"),
        ([HEADER | {"cores": 0}], 1, "cores", "0 is not a whole number of at least 1"),
        ([HEADER | {"fleet": []}], 1, "fleet", "object of executors"),
        ([HEADER | {"fleet": {"x": 3}}], 1, "fleet", "'x' is no executor: 3"),
        ([HEADER | {"fleet": {"x": {}}}], 1, "fleet.x.workers", "missing"),
        ([HEADER | {"fleet": {"x": {"workers": True}}}], 1, "fleet.x.workers", "True is not"),
        ([HEADER | {"fleet": {"x": {"workers": 1, "y": 2}}}], 1, "fleet.x.y", "unknown"),
        ([HEADER, ITEM | {"more": 1}], 2, "more", "unknown; there are id, task"),
        ([HEADER, {k: v for k, v in ITEM.items() if k != "ok"}], 2, "ok", "missing; it is true"),
        ([HEADER, ITEM | {"ok": 1}], 2, "ok", "1 is not true or false"),
        ([HEADER, ITEM | {"task": ""}], 2, "task", "'' is not a name"),
        ([HEADER, ITEM | {"ended": "1"}], 2, "ended", "'1' is not a number of seconds"),
        ([HEADER, ITEM | {"ended": float("nan")}], 2, "ended", "nan is not"),
        ([HEADER, ITEM | {"ended": None}], 2, "ended", "None is not a number of seconds"),
        ([HEADER, ITEM | {"ended": 0.25, "started": None}], 2, "ended", "before 'submitted'"),
        ([HEADER, ITEM | {"started": 2.0}], 2, "started", "not between"),
        ([HEADER, ITEM | {"executor": None}], 2, "executor", "was started"),
        ([HEADER, ITEM | {"executor": "gpu"}], 2, "executor", r"not in the fleet .* \['thread'\]"),
        ([HEADER, ITEM | {"pinned": "gpu"}], 2, "pinned", "not in the fleet"),
        ([HEADER, ITEM | {"wall": -1}], 2, "wall", "-1 is not a number of at least 0, or null"),
        ([HEADER, ITEM | {"gil": 1.5}], 2, "gil", "from 0 to 1"),
        ([HEADER, ITEM | {"bytes": 1.5}], 2, "bytes", "whole number"),
        ([HEADER, ITEM | {"predicted": {"x": "y"}}], 2, "predicted", "object of seconds"),
        ([HEADER, ITEM | {"tags": "gpu"}], 2, "tags", "list of words"),
        ([HEADER, ITEM, ITEM], 3, "id", "1 stands in line 2 already"),
    ],
)
def test_what_is_no_log_is_refused_by_file_line_and_key(lines, line, key, words):
    with pytest.raises(DecisionLogError, match=words) as caught:
        parse(*lines)
    assert (caught.value.path, caught.value.line, caught.value.key) == ("log", line, key)
    assert str(caught.value).startswith("log" if line is None else f"log, line {line}")


def test_an_error_names_the_file(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_bytes(json.dumps(HEADER).encode() + b"\n\xff\xfe\n")
    with pytest.raises(DecisionLogError, match=r"run\.jsonl, line 2"):
        read_log(path)
