"""Run the benchmarks: `python -m benchmarks [--quick] [--check] [--json FILE] [MODULE ...]`."""

from __future__ import annotations

import argparse
import compileall
import importlib
import json
import sys
from pathlib import Path
from time import perf_counter

import hybrid_compute
from benchmarks._harness import Case, Outcome, machine, rst_table, run_case, table_of
from benchmarks._targets import OURS, table_of_targets

__all__ = ["main"]

MODULES = (
    *("thread", "inline", "process", "stream", "waiting", "startup", "memory", "routing", "remote"),
    *("outbox", "wasm", "survive", "observe", "engines"),
)


def main() -> None:
    """Measure, and print tables in reStructuredText. Never fails for a slow figure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=", ".join(MODULES))
    parser.add_argument("--quick", action="store_true", help="a short run, for a look")
    parser.add_argument("--check", action="store_true", help="say which targets are reached")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to a file")
    parser.add_argument("--only", metavar="WORDS", default="", help="cases whose name has WORDS")
    given = parser.parse_args()
    for name in given.modules:
        if name not in MODULES:
            parser.error(f"there is no module {name!r}; there are {', '.join(MODULES)}")
    begin = perf_counter()
    here = machine()
    print(rst_table(("machine", ""), [(key, str(value)) for key, value in here.items()]))
    # As pip does with what it installs: a checkout's modules may never have been compiled.
    compileall.compile_dir(Path(hybrid_compute.__file__).parent, quiet=1)
    outcomes: dict[str, Outcome] = {}
    for module in given.modules or MODULES:
        cases: tuple[Case, ...] = importlib.import_module(f"benchmarks.{module}").CASES
        for index, case in enumerate(cases):
            if given.only not in case.name:
                continue
            outcome = run_case(module, index, case, quick=given.quick, say=_say)
            outcomes[case.name] = outcome
            print(f"\n**{case.name}**\n\n{table_of(outcome, OURS)}", flush=True)
    if given.check:
        print(f"\n**Targets**\n\n{table_of_targets(outcomes)}")
    _say(f"{perf_counter() - begin:.0f} s")
    if given.json:
        given.json.write_text(json.dumps({"machine": here, "cases": _plain(outcomes)}, indent=1))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _plain(outcomes: dict[str, Outcome]) -> dict[str, object]:
    return {
        name: {
            "unit": outcome.case.unit,
            "figures": dict(outcome.figures),
            "problems": dict(outcome.problems),
        }
        for name, outcome in outcomes.items()
    }


if __name__ == "__main__":
    main()
