"""Entry points: what is wrong with a plugin is told with its name and its package."""

from __future__ import annotations

import importlib
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from hybrid_compute import HybridExecutor, RemoteExecutor
from hybrid_compute._plugins import EXECUTORS, find_plugin, plugin_names
from hybrid_compute.errors import ConfigurationError
from tests.test_architecture import loaded_by

MODULE = "plugin_of_the_tests"
CODE = """
from concurrent.futures import ThreadPoolExecutor
def needy(*, size: int): return ThreadPoolExecutor(size)
def plain(): return ThreadPoolExecutor(1)
def nothing(): return None
class Policy:
    def __init__(self, size): pass
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    (tmp_path / f"{MODULE}.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(package: str, group: str, **points: str) -> None:
        folder = tmp_path / f"{package}-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
        lines = [f"{name.replace('_', '-')} = {value}" for name, value in points.items()]
        (folder / "entry_points.txt").write_text(f"[{group}]\n" + "\n".join(lines) + "\n")
        importlib.invalidate_caches()

    yield install
    sys.modules.pop(MODULE, None)


def test_a_foreign_executor_is_had_by_its_name_and_ended_with_the_fleet(site):
    site("one", EXECUTORS, plain=f"{MODULE}:plain")
    assert "plain" in plugin_names(EXECUTORS)
    with HybridExecutor(executors={"x": "plain"}) as ex:
        assert ex.options(executor="x").submit(pow, 2, 3).result(60) == 8
        pool = ex._fleet["x"]._pool
        assert type(pool) is ThreadPoolExecutor
    with pytest.raises(RuntimeError):
        pool.submit(pow, 2, 3)


def test_one_that_needs_more_than_its_name_is_told_so_and_can_be_configured(site):
    site("one", EXECUTORS, needy=f"{MODULE}:needy")
    with pytest.raises(ConfigurationError, match=r"'x' cannot be made of the name 'needy' alone"):
        HybridExecutor(executors={"x": "needy"})
    said = {"executors": {"x": {"type": "needy", "size": 2}}}
    with HybridExecutor.from_config(said, environ={}) as ex:
        assert ex._fleet["x"]._pool._max_workers == 2
    with pytest.raises(ConfigurationError, match=r"executors.x.size is 'two': give a whole number"):
        HybridExecutor.from_config({"executors": {"x": {"type": "needy", "size": "two"}}})
    with pytest.raises(ConfigurationError, match=r"executors.x.size is missing: needy needs it"):
        HybridExecutor.from_config({"executors": {"x": "needy"}})


def test_a_policy_that_needs_more_than_its_name_is_told_so(site):
    site("one", "hybrid_compute.policies", mine=f"{MODULE}:Policy")
    with pytest.raises(ConfigurationError, match=r"policy='mine' needs more than its name"):
        HybridExecutor(policy="mine")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("no_such_module:x", ["'bad' is no_such_module:x of the package 'one'", "No module named"]),
        (f"{MODULE}:no_such", ["cannot be loaded", "no_such"]),
        (f"{MODULE}:__name__", ["must be a class or a function"]),
        (f"{MODULE}:nothing", ["is no concurrent.futures.Executor"]),
    ],
)
def test_one_that_is_broken_is_told_with_its_name(site, value, words):
    site("one", EXECUTORS, bad=value)
    with pytest.raises(ConfigurationError) as info:
        HybridExecutor(executors={"x": "bad"})
    assert [word for word in words if word not in str(info.value)] == []


def test_a_name_of_two_packages_is_an_error(site):
    site("one", EXECUTORS, both=f"{MODULE}:plain")
    site("two", EXECUTORS, both=f"{MODULE}:nothing")
    with pytest.raises(ConfigurationError, match=r"stands for .*:nothing and for .*:plain"):
        find_plugin(EXECUTORS, "both")


def test_a_name_of_our_own_cannot_be_taken(site):
    site("one", EXECUTORS, thread=f"{MODULE}:nothing")
    with HybridExecutor(executors={"x": "thread"}) as ex:
        assert type(ex._fleet["x"]) is type(ex._fleet["thread"])


def test_the_url_of_a_service_stands_for_a_remote_executor():
    with HybridExecutor(executors={"far": "ws://127.0.0.1:1/ws"}) as ex:
        assert type(ex._fleet["far"]) is RemoteExecutor
        assert ex._fleet["far"].name == "far"


def test_a_scheme_that_nobody_has_is_told_with_those_that_are_installed(site):
    site("one", "hybrid_compute.transports", mine=f"{MODULE}:plain")
    with pytest.raises(ConfigurationError, match=r"'theirs://h' .*there are \['mine'\]"):
        RemoteExecutor("theirs://h")


def test_no_package_is_looked_at_while_only_our_own_names_are_used():
    statement = (
        "from hybrid_compute import HybridExecutor, RemoteExecutor\n"
        "HybridExecutor(policy='least-loaded', remote='ws://127.0.0.1:1/ws').shutdown()"
    )
    assert "importlib.metadata" not in loaded_by(statement)
