"""What `__all__` says is what there is, in each module and in the package."""

from __future__ import annotations

import ast
import importlib
import types

import pytest

import hybrid_compute

from .test_architecture import MODULES, PACKAGE, is_for_type_checkers, tree

NAMES = sorted(f"{PACKAGE}.{module}".rstrip(".") for module in MODULES)


@pytest.mark.parametrize("name", NAMES)
def test_each_exported_name_exists_and_is_exported_once(name):
    module = importlib.import_module(name)
    assert sorted(set(module.__all__)) == sorted(module.__all__)
    assert [each for each in module.__all__ if not hasattr(module, each)] == []


@pytest.mark.parametrize("name", NAMES)
def test_each_public_function_and_class_is_exported(name):
    module = importlib.import_module(name)
    public = {
        each
        for each, value in vars(module).items()
        if not each.startswith("_")
        and isinstance(value, (type, types.FunctionType))
        and value.__module__ == name
    }
    assert public - set(module.__all__) == set()


def test_type_checkers_see_the_names_that_the_package_exports():
    seen = {
        alias.asname or alias.name
        for node in tree("").body
        if is_for_type_checkers(node)
        for each in ast.walk(node)
        if isinstance(each, ast.ImportFrom)
        for alias in each.names
    }
    assert seen == set(hybrid_compute.__all__)


def test_the_package_lists_its_exports():
    assert set(hybrid_compute.__all__) <= set(dir(hybrid_compute))


def test_a_name_that_the_package_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'hybrid_compute' has no attribute 'nothing'"):
        hybrid_compute.nothing  # noqa: B018 - the access is what is tested


@pytest.mark.parametrize("name", ["InlineExecutor", "ProcessExecutor", "ThreadExecutor"])
def test_every_executor_is_an_executor_of_the_standard_library_too(name):
    from concurrent.futures import Executor

    assert issubclass(getattr(hybrid_compute, name), Executor)
    assert issubclass(getattr(hybrid_compute, name), hybrid_compute.abc.SubExecutor)
