"""The command `hybrid-compute replay`: what it prints, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from hybrid_compute._commands import main
from hybrid_compute.policy import Adaptive

ROOT = Path(__file__).parents[1]
LOG = ROOT / "examples" / "thumbnails.jsonl"
PAGE = (ROOT / "docs" / "howto" / "replay.rst").read_text()


def replay(*arguments, log=LOG):
    return CliRunner().invoke(main, ["replay", str(log), *map(str, arguments)])


def predicted(*arguments):
    done = replay("--json", *arguments)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["predicted"]


SHOWN = re.findall(r"^    \$ hybrid-compute (replay .*)\n((?:    .*\n|\n)+)", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("command", "output"), SHOWN)
def test_the_page_shows_what_is_printed(command, output, monkeypatch):
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(main, command.split())
    lines = [line.rstrip() for line in done.output.strip().splitlines()]
    assert lines == [line.removeprefix("    ").rstrip() for line in output.strip().splitlines()]
    assert done.exit_code == 0


def test_the_page_shows_something():
    assert len(SHOWN) == 2


def test_more_cores_and_processes_are_sooner_done():
    more = predicted("--cores", 8, "--processes", 8)
    assert more["executors"]["process"]["workers"] == 8
    assert more["makespan"] < 0.5 * predicted()["makespan"]
    assert predicted("--processes", 8)["makespan"] > 0.9 * predicted()["makespan"]


def test_more_threads_let_more_wait_at_once():
    assert predicted("--threads", 24)["executors"]["thread"]["wait_p99"] == pytest.approx(0)


def test_a_service_that_is_not_there_can_be_thought_of():
    report = predicted(
        "--policy", "far,thread", "--remote", "far=5,1000,10", "--price", "far=0.5,2"
    )
    assert report["tasks"]["thumbnail"] == {"far": 24}
    far = report["executors"]["far"]
    assert (far["workers"], far["items"]) == (1000, 72)
    assert report["cost"] == pytest.approx(72 * 0.5 + 2 * far["busy"])


def test_the_logged_run_is_priced_too():
    data = json.loads(replay("--json", "--price", "process=1").stdout)
    assert (data["logged"]["cost"], data["predicted"]["cost"]) == (24, 24)


def test_a_policy_of_one_s_own_is_found_by_module_and_name(tmp_path, monkeypatch):
    (tmp_path / "mine_for_replay.py").write_text(
        "from hybrid_compute.policy import Rules, named, when\n"
        "rules = Rules(when(named('thumb*'), 'process'), default='thread')\n"
        "class Inline:\n"
        "    def route(self, item, fleet):\n"
        "        return ('inline',)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert predicted("--policy", "mine_for_replay:rules")["tasks"]["label"] == {"thread": 24}
    assert predicted("--policy", "mine_for_replay:Inline")["tasks"]["label"] == {"inline": 24}


def test_a_policy_that_has_a_name_is_found_by_it():
    assert predicted("--policy", "adaptive")["items"] == 72


def test_the_policy_that_learns_knows_the_cores_of_the_other_machine(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "hybrid_compute._replay.Adaptive", lambda **given: seen.append(given) or Adaptive(**given)
    )
    predicted("--policy", "adaptive")
    predicted("--policy", "adaptive", "--cores", 8)
    assert seen == [{"cores": 2}, {"cores": 8}]


def test_the_output_is_not_cut_in_a_narrow_window(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    assert "…" not in replay("--policy", "thread").output


def test_items_that_could_run_nowhere_are_told(tmp_path):
    log = tmp_path / "run.jsonl"
    lines = LOG.read_text().splitlines()
    private = json.loads(lines[1]) | {"local_only": True}
    log.write_text("\n".join([lines[0], json.dumps(private)]))
    done = replay("--remote", "far=1", "--policy", "far", log=log)
    assert "1 item could run nowhere under this policy" in done.output


@pytest.mark.parametrize(
    ("arguments", "option", "words"),
    [
        (["--remote", "far"], "--remote", "'far' is not NAME=RTT_MS"),
        (["--remote", "far=1,2,3,4"], "--remote", "'far=1,2,3,4' is not"),
        (["--remote", "far=-1"], "--remote", "'far=-1' is not"),
        (["--remote", "far=1,0.5"], "--remote", "WORKERS is a whole number"),
        (["--remote", "far=1,2,0"], "--remote", "MB_PER_S is a number greater than 0"),
        (["--price", "thread=nan"], "--price", "'thread=nan' is not NAME=CALL"),
        (["--price", "far=1"], "--price", "'far' is not in the fleet"),
        (["--policy", "nowhere"], "--policy", "'nowhere'.*or names of executors"),
        (["--policy", "json:dumps"], "--policy", "no method route"),
        (["--policy", "no_such:x"], "--policy", "ModuleNotFoundError"),
        (["--policy", "json:no_such"], "--policy", "AttributeError"),
        (["--cores", "0"], "--cores", "0 is not in the range"),
        (["--processes", "many"], "--processes", "'many' is not a valid integer"),
        (["--arrivals", "never"], "--arrivals", "'never' is not one of"),
    ],
)
def test_a_wrong_option_ends_with_status_2_and_its_name_and_value(arguments, option, words):
    done = replay(*arguments)
    assert done.exit_code == 2
    assert re.search(f"Invalid value for '{option}': .*{words}", done.output, re.DOTALL)


def test_a_fleet_without_threads_refuses_their_number(tmp_path):
    log = tmp_path / "run.jsonl"
    log.write_text('{"v":1,"cores":1,"fleet":{"process":{"workers":1,"isolates":true}}}\n')
    done = replay("--threads", 3, log=log)
    assert done.exit_code == 2
    assert "Invalid value for '--threads': executor 'thread' is not in the fleet" in done.output


@pytest.mark.parametrize(
    ("text", "words"), [(None, "No such file"), ("", "is empty"), ("{}", "line 1, 'v'")]
)
def test_what_is_no_log_ends_with_status_1_and_one_line(tmp_path, text, words):
    log = tmp_path / "run.jsonl"
    if text is not None:
        log.write_text(text)
    done = replay(log=log)
    assert done.exit_code == 1
    assert re.fullmatch(
        rf"Error: .*run\.jsonl.*{words}.*\n|Error: .*{words}.*run\.jsonl.*\n", done.output
    )


def test_a_policy_that_raises_ends_with_status_1_and_names_the_task(tmp_path, monkeypatch):
    (tmp_path / "bad_for_replay.py").write_text(
        "class Bad:\n    def route(self, item, fleet):\n        raise KeyError(item.name)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    done = replay("--policy", "bad_for_replay:Bad")
    assert done.exit_code == 1
    assert re.search(r"raised KeyError\('fetch'\) for 'fetch'", done.output)
