"""Half-open connections and resets, made by the kernel: see `netns`, which does the work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.remote import netns
from tests.server.conftest import ROOT

pytestmark = pytest.mark.timeout(100)

PLACES = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


@pytest.fixture(scope="module")
def nft() -> str:
    """The program nft, in whose network namespace it works. Fails where that cannot be."""
    found = shutil.which("nft", path=PLACES)
    if found is None:
        pytest.fail("there is no nft: apt-get install nftables", pytrace=False)
    tried = subprocess.run(
        ["unshare", "-n", found, "list", "ruleset"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        pytest.fail(f"needs a network of its own, as root: {tried.stderr}", pytrace=False)
    return found


@pytest.mark.parametrize(
    "program",
    [
        netns.half_open_websocket,
        netns.half_open_http,
        netns.black_hole,
        netns.reset_in_a_stream,
    ],
    ids=lambda program: program.__name__,
)
def test_what_a_proxy_cannot_do(nft, program):
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-m", "tests.remote.netns", program.__name__],
        cwd=ROOT,
        env={**os.environ, "NFT": nft, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
