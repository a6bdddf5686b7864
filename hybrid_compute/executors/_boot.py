"""The script that the spawner process runs; never imported.

It is run by its path, so that the child of a program starts without importing the whole library
(most of it is for callers, and takes longer to import than Python takes to start). The package
is put into `sys.modules` without running its `__init__`; that runs, whole and once, when
somebody first asks the package for a name: when the work itself says `import hybrid_compute`.
"""

from __future__ import annotations

import _frozen_importlib_external
import _thread
import sys

__all__: list[str] = []

_ROOT = __file__.rsplit("/", 3)[0]
TYPE_CHECKING = False  # as typing's, which takes longer to import than all of this
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any
else:
    ModuleType = type(sys)


class _LatePackage(ModuleType):
    """A package whose `__init__` has not run yet."""

    _lock = _thread.RLock()  # one thread runs it, the others wait
    _loading = False

    def __getattr__(self, name: str) -> Any:
        with _LatePackage._lock:
            if type(self) is _LatePackage:
                if _LatePackage._loading:  # it asks for what it has not defined yet
                    raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
                _LatePackage._loading = True
                try:
                    self.__spec__.loader.exec_module(self)  # type: ignore[union-attr]  # it has
                finally:
                    _LatePackage._loading = False
                self.__class__ = ModuleType  # type: ignore[assignment]  # a module like any other
        return getattr(self, name)


def _prepare() -> None:
    spec = _frozen_importlib_external.PathFinder.find_spec("hybrid_compute", [_ROOT])
    if spec is None:
        raise ImportError(f"{_ROOT} has no package hybrid_compute any more")
    package = _LatePackage(spec.name)
    package.__spec__ = spec
    package.__loader__ = spec.loader
    package.__package__ = spec.name
    package.__file__ = spec.origin
    package.__path__ = spec.submodule_search_locations or []
    sys.modules[spec.name] = package
    # This script's own folder came first; its modules must not be found by their bare names.
    if sys.path and sys.path[0] == __file__.rsplit("/", 1)[0]:
        del sys.path[0]


if __name__ == "__main__":
    _prepare()
    from hybrid_compute.executors._spawner import main

    main(int(sys.argv[1]), int(sys.argv[2]))
