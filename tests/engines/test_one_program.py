"""One program, on every engine: only the constructor's arguments change."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from hybrid_compute import HybridExecutor, RemoteExecutor
from hybrid_compute.policy import Always
from tests.engines.program import TASKS, run, run_numbers, word_count
from tests.server.conftest import SECRET, Served

pytestmark = [
    pytest.mark.leaks("the connections of clusters come and go"),
    pytest.mark.usefixtures("started_ray"),
]


@pytest.fixture(scope="module")
def server():
    served = Served("tests.engines.program:TASKS")
    yield served
    served.end()


@pytest.fixture
def executors(client, server):
    from hybrid_compute.engines.dask import DaskExecutor
    from hybrid_compute.engines.ray import RayExecutor

    url = f"ws://127.0.0.1:{server.port}/ws"
    return {
        "thread": dict,
        "process": lambda: {"max_processes": 1},
        "remote": lambda: {"remote": RemoteExecutor(url, token=SECRET)},
        "dask": lambda: {"executors": {"dask": DaskExecutor(client)}},
        "ray": lambda: {"executors": {"ray": RayExecutor()}},
    }


def test_a_program_gives_the_same_on_every_engine(executors):
    found = {}
    for name, arguments in executors.items():
        with HybridExecutor(policy=Always(name), **arguments()) as executor:
            found[name] = run(executor)
            assert set(found[name].pop("places")) == {name}
    assert list(found) == ["thread", "process", "remote", "dask", "ray"]
    assert all(each == found["thread"] for each in found.values()), found
    assert found["thread"]["words"] == {"a": 3, "b": 2, "c": 1}


SQUARE = """(module (func (export "square") (param i64) (result i64)
    local.get 0 local.get 0 i64.mul))"""


def test_a_program_of_numbers_gives_the_same_in_a_sandbox_too(executors):
    from hybrid_compute.engines.wasm import WasmExecutor

    executors["wasm"] = lambda: {"executors": {"wasm": WasmExecutor(SQUARE.encode())}}
    found = {}
    for name, arguments in executors.items():
        with HybridExecutor(policy=Always(name), **arguments()) as executor:
            found[name] = run_numbers(executor)
            assert set(found[name].pop("places")) == {name}
    assert list(found) == ["thread", "process", "remote", "dask", "ray", "wasm"]
    assert all(each == found["thread"] for each in found.values()), found
    assert found["wasm"]["one by one"] == [9, 16, 2**40]


PAGE = (Path(__file__).parents[2] / "docs/howto/engines.rst").read_text()
BLOCKS = [
    textwrap.dedent(each)
    for each in re.findall(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", PAGE, re.MULTILINE)
]


@pytest.mark.parametrize("block", BLOCKS, ids=["server", "dask", "ray", "mpi", "loky"])
def test_the_setup_of_an_engine_in_the_docs_is_short_and_works(block, request, monkeypatch, capsys):
    assert len(block.split("\n")) < 10
    if "MPIPoolExecutor" in block:
        return  # it needs mpiexec: see tests/executors/test_foreign.py
    if "RemoteExecutor" in block:
        server = request.getfixturevalue("server")
        block = block.replace("wss://server:8760", f"ws://127.0.0.1:{server.port}")
        monkeypatch.setenv("HYBRID_COMPUTE_TOKEN", SECRET)
    if "DaskExecutor" in block:
        cluster = request.getfixturevalue("cluster")
        block = block.replace("tcp://scheduler:8786", cluster.address)
    exec(block, {"word_count": word_count, "pages": ["a b", "c"]})
    assert capsys.readouterr().out == "3\n"


def test_the_program_s_tasks_are_those_of_the_server():
    assert set(TASKS) == {"count_words", "word_count", "square", "countdown", "fails"}
