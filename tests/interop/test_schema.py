"""POST /compute holds to the JSON Schema that GET /tasks gives out: requests made by hypothesis.

The schema is judged by the package jsonschema, which knows nothing of ours.
"""

from __future__ import annotations

import json

import jsonschema
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.interop.conftest import PATIENCE, served

pytestmark = pytest.mark.timeout(100)

NAMES = ["scalar", "small", "nested", "mapping", "anything"]
# Parameters of the tasks, and members of their objects; and one that none has.
KEYS = st.sampled_from(
    ["number", "text", "flag", "kind", "point", "others", "table", "pair", "value", "x", "y", "z"]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 12)
    # None is whole and written with a point or an exponent, as -1e300: JSON Schema has it for an
    # integer, and we do not.
    | st.sampled_from(["", "a", "b", "7", 0.5, -1e-300, 2**60])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.fixed_dictionaries({"x": inner}, optional={"y": inner})
    ),
    max_leaves=6,
)
NEAR = {  # most of what is made at random is refused for its first member: these come close
    "number": st.integers(-2, 12),
    "text": st.text(max_size=3),
    "flag": st.booleans(),
    "kind": st.sampled_from(["a", "b", "c"]),
    "point": st.fixed_dictionaries({"x": st.integers() | st.just(0.5)}, optional={"y": LEAVES}),
    "others": st.none() | st.lists(st.fixed_dictionaries({"x": LEAVES}), max_size=2),
    "table": st.dictionaries(st.text(max_size=3), st.integers(-3, 3), max_size=3),
    "pair": st.tuples(LEAVES, LEAVES).map(list),
    "value": VALUES,
}


@st.composite
def calls(draw, schemas):
    name = draw(st.sampled_from(NAMES))
    properties = schemas[name]["properties"]
    required = set(schemas[name].get("required", ()))
    arguments = {
        key: draw(NEAR[key] if draw(st.integers(0, 3)) else VALUES)
        for key in properties
        if key in required or draw(st.booleans())
    }
    if draw(st.integers(0, 9)) == 0:
        arguments |= draw(st.dictionaries(KEYS, VALUES, max_size=2))
    if draw(st.integers(0, 9)) == 0 and arguments:
        del arguments[draw(st.sampled_from(sorted(arguments)))]
    return name, arguments


@pytest.fixture(scope="module")
def checked():
    with served("tests.interop.work:CHECKED") as server:
        yield server.url


@pytest.fixture(scope="module")
def schemas(checked):
    found = requests.get(f"{checked}/tasks", timeout=PATIENCE).json()["tasks"]
    assert sorted(each["name"] for each in found) == sorted(NAMES)
    return {each["name"]: {**each["parameters"], "$defs": each.get("$defs", {})} for each in found}


def few(number):
    return settings(
        max_examples=number,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


@pytest.fixture
def post(checked):
    with requests.Session() as session:

        def call(body):
            return session.post(
                f"{checked}/compute",
                data=json.dumps(body),  # `json=None` would be no body
                headers={"Content-Type": "application/json"},
                timeout=PATIENCE,
            )

        yield call


def test_the_schemas_are_schemas(schemas):
    for each in schemas.values():
        jsonschema.Draft202012Validator.check_schema(each)


def test_arguments_are_refused_exactly_if_the_schema_says_so(post, schemas):
    validators = {name: jsonschema.Draft202012Validator(each) for name, each in schemas.items()}
    seen = set()

    @few(300)
    @given(calls(schemas))
    def check(call):
        name, arguments = call
        answer = post({"task": name, "kwargs": arguments})
        valid = validators[name].is_valid(arguments)
        assert answer.status_code == (200 if valid else 422), (answer.text, valid)
        seen.add(answer.status_code)

    check()
    assert seen == {200, 422}


def test_no_request_is_an_error_of_the_server(post):
    @few(150)
    @given(
        VALUES
        | st.dictionaries(st.sampled_from(["task", "input", "args", "kwargs"]), VALUES)
        | st.fixed_dictionaries(
            {"task": st.sampled_from(NAMES)},
            optional={"input": VALUES, "args": VALUES, "timeout": VALUES},
        )
    )
    def check(body):
        answer = post(body)
        assert answer.status_code in (200, 400, 404, 408, 422), answer.text
        assert answer.json().keys() & {"result", "error"}

    check()
