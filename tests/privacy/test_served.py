"""A server's tasks may have the annotations that their callers go by."""

from __future__ import annotations

from typing import Annotated

import pytest

from hybrid_compute import Sensitive, task
from hybrid_compute.protocol.messages import Request
from hybrid_compute.server.catalog import Entry
from hybrid_compute.server.gate import Refusal


def by_class(customer: Sensitive[str]) -> str:
    return customer


def by_annotated(customer: Annotated[str, Sensitive]) -> str:
    return customer


@pytest.mark.parametrize("fn", [by_class, by_annotated])
def test_a_server_checks_what_stands_within(fn):
    entry = Entry("fn", task(fn))
    assert entry.check(Request(1, "fn", ("alice",), {}), own=True) == (("alice",), {})
    with pytest.raises(Refusal, match="Expected `str`"):
        entry.check(Request(1, "fn", (3,), {}), own=True)
    assert '"string"' in str(entry.describe()).replace("'", '"')
