"""`from hybrid_compute import server`: light, and clear about what is missing."""

from __future__ import annotations

import pytest

from tests.test_architecture import loaded_by, run

BLOCK = "import sys; sys.modules[{0!r}] = None\n"


def test_the_package_is_loaded_when_it_is_used():
    assert "hybrid_compute.server" not in loaded_by("import hybrid_compute")
    for statement in ("from hybrid_compute import server", "import hybrid_compute as h; h.server"):
        loaded = loaded_by(statement)
        assert "hybrid_compute.server" in loaded
        assert not {"msgspec", "uvicorn", "asyncio"} & loaded


def test_its_names_are_there():
    code = "from hybrid_compute import server\nprint(server.create_app.__name__, dir(server))"
    said = run(code)
    assert said.startswith("create_app [")
    assert "'Limits'" in said


def test_what_workers_need_of_it_is_light():
    loaded = loaded_by("import hybrid_compute.server.workers")
    assert not {"msgspec", "asyncio", "uvicorn"} & loaded


@pytest.mark.parametrize(
    "statement",
    [
        "server.create_app",
        "from hybrid_compute.server import create_app",
        "from hybrid_compute.server import App",
    ],
)
def test_without_the_extra_the_error_names_the_command_that_installs_it(statement):
    said = run(
        f"{BLOCK.format('msgspec')}"
        "from hybrid_compute import *\n"
        f"try:\n    {statement}\n"
        "except ModuleNotFoundError as error:\n    print(error)"
    )
    assert said.strip().endswith("needs msgspec: pip install 'hybrid-compute[server]'")


def test_a_name_that_it_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        from hybrid_compute import server

        server.nothing  # noqa: B018 - the access is what is tested
