"""The codecs, with msgspec and without: what holds for one holds for all."""

from __future__ import annotations

import pytest

from hybrid_compute.protocol.codec import Codec


@pytest.fixture(params=[False, True], ids=["stdlib", "msgspec"])
def msgspec(request):
    return request.param


@pytest.fixture
def plain(msgspec):
    return Codec(msgspec=msgspec)


@pytest.fixture(params=["stdlib", "msgspec", "binary"])
def tagged(request):
    return Codec(tagged=True, binary=request.param == "binary", msgspec=request.param != "stdlib")
