"""What a fault costs: the item that it belongs to, and nothing else.

Each fault of the table in `cases` happens in the midst of other work (see `scenario`): to a
ProcessExecutor alone, to a HybridExecutor that is told the place, and to one whose policy says
it; submitted by the main thread, by a done-callback, and by work of the same executor (or, for
a ProcessExecutor alone, by work in a process, which has an executor of its own).
"""

from __future__ import annotations

import pytest

from . import scenario
from .cases import CASES

# The policy decides before anything is sent: one place tells as much as three.
COMBINATIONS = [
    (kind, place)
    for kind in scenario.KINDS
    for place in scenario.PLACES
    if kind != "policy" or place == "main"
]
ROWS = {1, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 15, 17, 18}


@pytest.mark.parametrize(("kind", "place"), COMBINATIONS)
@pytest.mark.parametrize("case", CASES, ids=[f"row {case.row}: {case.name}" for case in CASES])
def test_a_fault_costs_its_own_item_only(case, kind, place, tmp_path):
    scenario.run(case.name, kind, place, tmp_path)


def test_the_table_has_each_row_that_is_about_one_item():
    assert {case.row for case in CASES} == ROWS
    assert len({case.name for case in CASES}) == len(CASES)
