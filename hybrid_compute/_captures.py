"""What a function that is pickled by value consists of, as far as that can be told by identity.

Owns the rules: which captured things are constants, which can be imported, and which global
variables and submodules a function's code names. Pure: no state, no threads. Used by
`_functions.CallEncoder`, whose docstring says what for.
"""

from __future__ import annotations

import sys
import types
from typing import Any

__all__ = [
    "ABSENT",
    "NAMED",
    "absent_submodules",
    "capture",
    "find_global_names",
    "importable",
    "is_constant",
    "is_function",
    "is_module",
    "is_plain",
]

_ATOMS = frozenset(
    (bool, int, float, complex, str, bytes, type(None), type(...), type(NotImplemented))
)
# Immutable types of the standard library, by name so that none of them is imported for this.
_CONSTANTS = frozenset(
    (
        ("decimal", "Decimal"),
        ("fractions", "Fraction"),
        ("logging", "Logger"),
        ("pathlib", "PosixPath"),
        ("pathlib._local", "PosixPath"),
        ("re", "Pattern"),
        ("uuid", "UUID"),
    )
)
ABSENT = object()  # a global variable that is not there; also ends each list of captures


def capture(fn: Any, names: tuple[str, ...], into: list[Any]) -> None:
    """Append all that pickling a function or task by value looks at. Runs for each message."""
    if type(fn) is not types.FunctionType:  # a Task; compared in place, as this runs often
        into += (fn.fn, fn.name, fn.options)
        return
    into += (fn.__code__, fn.__name__, fn.__qualname__, fn.__module__, fn.__doc__)
    if names:
        find = fn.__globals__.get
        into += [find(name, ABSENT) for name in names]
    if fn.__closure__ is not None:
        for cell in fn.__closure__:
            try:
                into.append(cell.cell_contents)
            except ValueError:  # not assigned yet
                into.append(ABSENT)
    if fn.__defaults__ is not None:
        into += fn.__defaults__
        into.append(ABSENT)
    for mapping in (fn.__kwdefaults__, fn.__annotations__, fn.__dict__):
        if mapping:
            into += mapping
            into += mapping.values()
        into.append(ABSENT)


NAMED = (type, types.FunctionType, types.BuiltinFunctionType)


def is_plain(value: object) -> bool:
    return type(value) is types.FunctionType


def is_function(value: object) -> bool:
    return type(value) is types.FunctionType or _is_ours(value, "Task")


def _is_ours(value: object, name: str) -> bool:
    # By name: the class need not be imported by those who never use it.
    return type(value).__name__ == name and type(value).__module__ == "hybrid_compute.tasks"


def is_module(value: object) -> bool:
    return (
        type(value) is types.ModuleType
        and value.__name__ != "__main__"
        and sys.modules.get(value.__name__) is value
    )


def is_constant(value: object) -> bool:
    kind = type(value)
    if kind in _ATOMS or kind is types.CodeType or _is_ours(value, "TaskOptions"):
        return True
    if kind is tuple or kind is frozenset:
        return all(map(is_constant, value))  # type: ignore[call-overload]  # it is a collection
    if kind is types.GenericAlias or kind is types.UnionType or kind.__module__ == "typing":
        # An annotation like list[int] | None. A type variable has no __args__, but a bound.
        arguments = getattr(value, "__args__", None)
        origin = getattr(value, "__origin__", int)
        return arguments is not None and all(map(_is_type_part, (origin, *arguments)))
    return (kind.__module__, kind.__qualname__) in _CONSTANTS


def _is_type_part(value: Any) -> bool:
    if isinstance(value, type):
        return value is type(None) or importable(value)
    return is_constant(value) or type(value).__qualname__ == "_SpecialForm"


def importable(value: Any) -> bool:
    """Tell whether pickle saves it as a name that another process can import."""
    module, path = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(path, str) or module == "__main__":
        return False
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    return found is value


def find_global_names(code: types.CodeType) -> set[str]:
    import dis  # noqa: PLC0415 - cloudpickle has imported it by now

    # All instructions on global variables that there are; cloudpickle looks at three of them.
    names = {i.argval for i in dis.get_instructions(code) if "GLOBAL" in i.opname}
    for constant in code.co_consts:
        if type(constant) is types.CodeType:
            names |= find_global_names(constant)
    return names


def absent_submodules(package: str, fn: types.FunctionType) -> set[str]:
    words, found, todo = _all_names(fn.__code__), set(), [package]
    for parent in todo:  # grows
        for word in words:
            name = f"{parent}.{word}"
            if name not in sys.modules:
                found.add(name)
            elif name not in todo:
                todo.append(name)
    return found


def _all_names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if type(constant) is types.CodeType:
            names |= _all_names(constant)
    return names
