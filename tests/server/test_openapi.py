"""GET /openapi.json: it describes the server, and the server does what it says.

The second part is schemathesis's judgement, which makes requests of the document alone: good ones,
and such as break it.
"""

from __future__ import annotations

import collections
import json
import os
import re

import jsonschema
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from hybrid_compute.protocol.http import KEY_HEADER
from tests.server.conftest import SECRET, Served

pytestmark = pytest.mark.timeout(100)
TOKEN = {"Authorization": f"Bearer {SECRET}"}
EXAMPLES = int(os.environ.get("OPENAPI_EXAMPLES", "15"))


@pytest.fixture(scope="module")
def checked():
    served = Served("tests.interop.work:CHECKED")
    yield served
    served.end()


@pytest.fixture
def document(checked):
    answer = requests.get(f"{checked.url}/openapi.json", headers=TOKEN, timeout=10)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


def test_it_is_behind_the_token(checked):
    answer = requests.get(f"{checked.url}/openapi.json", timeout=10)
    assert answer.status_code == 401
    answer = requests.post(f"{checked.url}/openapi.json", headers=TOKEN, timeout=10)
    assert answer.status_code == 405
    assert json.loads(answer.text)["error"] == "/openapi.json takes GET only"


def test_every_reference_leads_somewhere(document):
    for name in re.findall(r'"#/([^"]+)"', json.dumps(document)):
        found = document
        for part in name.split("/"):
            found = found[part]
    assert len(document["components"]["schemas"]) > 5
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_each_task_has_its_schema(document):
    schemas = document["components"]["schemas"]
    calls = document["paths"]["/compute"]["post"]["requestBody"]["content"]["application/json"]
    named = [schemas[each["$ref"].rpartition("/")[2]] for each in calls["schema"]["oneOf"]]
    assert [each["title"] for each in named] == [
        *("scalar", "small", "nested", "mapping", "anything"),
    ]
    assert named[1]["properties"]["kwargs"]["properties"]["number"]["maximum"] == 10
    assert named[1]["required"] == ["task", "kwargs"]
    assert named[0]["description"] == "Take what JSON has."


def without_whole_floats(value):
    """Return the value with 10 in the place of 10.0, which JSON Schema takes for an integer."""
    if isinstance(value, dict):
        return {key: without_whole_floats(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_whole_floats(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
def test_schemathesis_finds_nothing_that_is_not_as_the_document_says(checked, mode):
    schema = schemathesis.openapi.from_url(f"{checked.url}/openapi.json", headers=TOKEN)
    statuses = collections.Counter()

    @given(case=schema["/compute"]["POST"].as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        database=None,
        derandomize=EXAMPLES <= 15,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    def call(case):
        # A key that was used for another call is refused, which no schema can say.
        case.headers.pop(KEY_HEADER, None)
        case.body = without_whole_floats(case.body)
        answer = case.call(headers=TOKEN)
        statuses[answer.status_code] += 1
        case.validate_response(answer)  # no 5xx; status, type and body as the document has them

    call()
    if mode is GenerationMode.POSITIVE:
        assert set(statuses) == {200}
    else:
        assert set(statuses) <= {200, 400, 401, 404, 415, 422}
        assert statuses[400] + statuses[422] > 0
