"""The house plan: imports go down, importing is light, modules say what they own."""

from __future__ import annotations

import ast
import functools
import graphlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "hybrid_compute"
FOLDER = Path(__file__).parents[1] / PACKAGE

# What a module may import: its own floor and those below. A name that ends with a dot stands for
# all modules of a subpackage.
FLOORS: dict[int, tuple[str, ...]] = {
    0: (
        *("errors", "tasks", "events", "futures", "items", "maps", "mapper", "abc", "prices"),
        *(
            "attempts",
            "decisions",
            "routed",
            "supervised",
            "direct",
            "_metered",
            "_alarm",
            "_bell",
            "_timer",
            "_pauses",
        ),
        *("_keys", "_hedge"),
        *("retry", "breaker", "sensitive", "privacy", "_secrets"),
        *("_config_keys", "_plugins", "_contexts", "_progress", "_unretrieved"),
        *("_exit", "_values", "_pickling", "_failures", "_functions", "_captures", "_blame"),
        *("_signed_work", "channels", "streams", "streamed", "_producer", "_packed"),
        *("_seats", "running"),
    ),
    1: ("policy.", "protocol.", "simulate."),
    2: ("transports.", "_durable"),
    3: ("executors.",),
    4: (
        "observed",
        *("recording", "recorder", "recorded", "_notes"),
        "mapped",
        "router",
        "learning",
        "_first_calls",
        *("_hedging", "_legs"),
        "quick",
        "stats",
        "views",
        "hybrid",
        "config",
    ),
    5: (
        *("cli", "_commands", "_demo_commands", "_outbox_commands", "_serve", "_replay"),
        *("decision_log", "server."),
        *("testing.", "telemetry.", "report.", "_report_commands", "_top"),
        *("_doctor", "_doctor_commands", "_machine"),
        *("_advise", "_advise_commands", "_advise_probe"),
        *("demo", "_demo_work", "_demo_remote", "_config_option"),
        "engines.",
    ),
}

# What runs in child processes, whose start-up time counts: these import floor 0 and each other.
CHILDREN = frozenset(
    f"executors.{name}"
    for name in (
        *("_boot", "_spawner", "_worker", "_frames", "_segments", "_batch", "_production"),
        "_worker_logs",
        "_nested",
    )
)

# Together longer than all else that a worker loads before its first call.
SLOW = {"typing", "re", "enum", "contextlib", "pickle", "traceback", "logging", "subprocess"}

HEAVY = (
    *("requests", "websocket", "msgspec", "numpy", "cloudpickle", "tqdm"),
    *("opentelemetry", "prometheus_client"),
    *("multiprocessing", "asyncio"),
)


def modules() -> dict[str, Path]:
    """Return the path of each module by its name below the package; the package itself is ''."""
    found = {}
    for path in FOLDER.rglob("*.py"):
        parts = path.relative_to(FOLDER).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@functools.cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def floor(module: str) -> int:
    for number, names in FLOORS.items():
        for name in names:
            if module == name.rstrip(".") or (name.endswith(".") and module.startswith(name)):
                return number
    pytest.fail(f"{PACKAGE}.{module} stands on no floor: add it to FLOORS in {__file__}")


def is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports(module: str, *, lazy: bool) -> set[str]:
    """Return the modules of this package that a module imports.

    Args:
        module: its name below the package.
        lazy: count what functions import, and what only type checkers see, as well.
    """
    found: set[str] = set()
    stack: list[ast.AST] = [tree(module)]
    while stack:
        node = stack.pop()
        if not lazy and (isinstance(node, ast.FunctionDef) or is_for_type_checkers(node)):
            continue
        stack.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            # `from package import module` and `from module import name` look the same.
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    names = {each.removeprefix(PACKAGE + ".") for each in found if each.startswith(PACKAGE + ".")}
    return names & set(MODULES)


def run(code: str) -> str:
    """Run code in an interpreter of its own that finds this package, and return what it prints."""
    env = os.environ | {"PYTHONPATH": str(FOLDER.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    return done.stdout


def loaded_by(statement: str) -> set[str]:
    """Return the modules that a statement loads, beyond those of the bare interpreter."""
    return set(
        json.loads(
            run(
                "import sys, json; before = set(sys.modules)\n"
                f"{statement}\n"
                "print(json.dumps(sorted(set(sys.modules) - before)))"
            )
        )
    )


@pytest.mark.parametrize("module", sorted(set(MODULES) - {""}))
def test_imports_only_go_down_the_floors(module):
    above = {each for each in imports(module, lazy=True) if floor(each) > floor(module)}
    assert not above


def test_no_module_needs_itself_to_be_imported():
    graph = {module: imports(module, lazy=False) - {module} for module in MODULES}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("module", sorted(CHILDREN & set(MODULES)))
def test_what_runs_in_a_child_imports_the_vocabulary_only(module):
    others = imports(module, lazy=True) - CHILDREN - {"executors"}
    assert {each for each in others if floor(each) > 0} == set()


def test_a_worker_starts_without_what_takes_long_to_load():
    boot = str(MODULES["executors._boot"])
    loaded = run(
        "import sys; before = set(sys.modules)\n"
        f"names = {{'__name__': 'boot', '__file__': {boot!r}}}\n"
        f"exec(open({boot!r}).read(), names); names['_prepare']()\n"
        f"import {PACKAGE}.executors._spawner, {PACKAGE}.executors._batch\n"
        f"print(*set(sys.modules) - before, type(sys.modules[{PACKAGE!r}]).__name__)"
    ).split()
    assert f"{PACKAGE}.executors._worker" in loaded
    assert set(loaded) & SLOW == set()
    assert "_LatePackage" in loaded  # the package itself has not been run


def test_a_worker_loads_none_of_the_caller_s_half():
    loaded = loaded_by(f"import {PACKAGE}.executors._worker")
    ours = {each.removeprefix(PACKAGE + ".") for each in loaded if each.startswith(PACKAGE + ".")}
    assert ours
    assert {each for each in ours - CHILDREN - {"executors"} if floor(each) > 0} == set()


@pytest.mark.parametrize(
    "statement",
    [
        f"import {PACKAGE}",
        f"from {PACKAGE} import *",
        f"from {PACKAGE} import *\nwith HybridExecutor() as ex: ex.submit(pow, 2, 3).result()",
    ],
    ids=["import", "import all names", "use threads only"],
)
def test_heavy_modules_are_not_loaded_by(statement):
    roots = {each.partition(".")[0] for each in loaded_by(statement)}
    assert roots & set(HEAVY) == set()


def test_the_protocol_needs_nothing_heavy_to_be_imported():
    statement = f"from {PACKAGE}.protocol import ClientSession; import {PACKAGE}.protocol.http"
    roots = {each.partition(".")[0] for each in loaded_by(statement)}
    assert roots & {*HEAVY, "socket", "ssl", "attrs"} == set()


@pytest.mark.parametrize(
    "module", sorted(each for each in MODULES if "protocol" in each or "simulate" in each)
)
def test_the_protocol_and_the_simulator_have_no_threads_sockets_or_clocks(module):
    names = {
        name.partition(".")[0]
        for node in ast.walk(tree(module))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert names & {"threading", "socket", "time", "select", "queue", "asyncio", "os"} == set()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_module_has_a_docstring_and_says_what_it_exports(module):
    assert ast.get_docstring(tree(module))
    names = [
        ast.unparse(target)
        for node in tree(module).body
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    assert names.count("__all__") == 1


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_over_400_lines_defends_it_in_its_docstring(module):
    if len(MODULES[module].read_text().splitlines()) > 400:
        assert re.search(r"\blines\b", ast.get_docstring(tree(module)) or "")


def sleeps(module: str) -> Iterator[str]:
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "time.sleep":
            yield f"line {node.lineno}"
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (f"line {node.lineno}" for alias in node.names if alias.name == "sleep")


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nothing_sleeps(module):
    assert list(sleeps(module)) == []
