"""Finds and imports CPython's tests; knows nothing of what is tested.

Also imported by the scripts that these tests run in an interpreter of their own, so it imports
no pytest.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

NAME = "test.test_concurrent_futures"
MISSING = f"no installed interpreter has the package {NAME}"
ROOT = str(Path(__file__).parents[2])

_FOLDER = Path(*NAME.split("."))
_NEEDED = ("__init__.py", "support", "test_concurrent_futures")


@functools.cache
def path_entry() -> str | None:
    """Return what has to be in `sys.path` for the package to be imported; None if there is none.

    An interpreter installed without it borrows that of another one: it is copied, with the
    `test.support` that it needs, so that nothing of this version is compiled into the other's
    folders.
    """
    for entry in sys.path:
        if (Path(entry) / _FOLDER).is_dir():
            return entry
    lender = _lender()
    if lender is None:
        return None
    copy = tempfile.mkdtemp(prefix="cpython-tests-")
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    for name in _NEEDED:
        source, target = lender / "test" / name, Path(copy, "test", name)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(exist_ok=True)
            shutil.copy(source, target)
    return copy


def _lender() -> Path | None:
    """Return the standard library of the newest other interpreter that has the package."""
    versions = range(sys.version_info.minor + 1, sys.version_info.minor + 9)
    # Where several versions are installed side by side (pyenv, /opt/python), look there first.
    for minor in reversed(versions):
        for lib in Path(sys.base_prefix).parent.glob(f"*/lib/python3.{minor}"):
            if (lib / _FOLDER).is_dir():
                return lib
    ask = "import sysconfig; print(sysconfig.get_path('stdlib'))"
    for minor in reversed(versions):
        found = shutil.which(f"python3.{minor}")
        if found is None:
            continue
        answer = subprocess.run([found, "-c", ask], capture_output=True, text=True, check=False)
        lib = Path(answer.stdout.strip())
        if answer.returncode == 0 and (lib / _FOLDER).is_dir():
            return lib
    return None


def module(name: str) -> ModuleType:
    """Import one of the package's modules."""
    entry = path_entry()
    assert entry is not None, MISSING
    if entry not in sys.path:
        sys.path.insert(0, entry)
    package = sys.modules.get("test")
    if package is not None and not any(
        (Path(each).parent / _FOLDER).is_dir() for each in package.__path__
    ):
        raise ImportError(f"{package.__path__} was imported before and has no {NAME}")
    return importlib.import_module(f"{NAME}.{name}")


def is_borrowed() -> bool:
    """Tell whether the tests are those of another, newer Python."""
    return path_entry() != sysconfig.get_path("stdlib")
