"""Run one adapter of one case once, in this fresh interpreter, and print its figure as JSON.

Called by `benchmarks._harness` as `python -m benchmarks._child MODULE CASE ADAPTER SIZE`, CASE
being the index of the case in the module.
"""

from __future__ import annotations

import importlib
import json
import sys

__all__ = ["main"]


def main(module: str, case: str, adapter: str, size: str) -> None:
    """Measure, and print the figure on the last line."""
    cases = importlib.import_module(f"benchmarks.{module}").CASES
    found = next(each for each in cases[int(case)].adapters if each.name == adapter)
    figure = found.measure(int(size))
    print()  # the figure stands on its own line whatever a library has printed
    print(json.dumps(figure), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
