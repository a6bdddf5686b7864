"""Clients of fetch and npm's ws against our server, and what they get wrong."""

from __future__ import annotations

import json

import pytest

from tests.interop.conftest import served

pytestmark = pytest.mark.timeout(100)


@pytest.fixture(params=["http", "ws"])
def calls(javascript, ours, request):
    """Return what makes calls and returns their answers, without what HTTP has around them."""

    def make(*calls):
        if request.param == "ws":
            return javascript.call(f"ws://127.0.0.1:{ours.port}/ws", list(calls))
        answers = javascript.call(f"{ours.url}/compute", list(calls))
        for each in answers:
            body = json.loads(each["body"])
            assert each["type"] == "application/json"
            assert (each["status"] == 200) == ("result" in body)
        return [json.loads(each["body"]) for each in answers]

    return make


def test_results_come_back(calls):
    values = [None, True, 0, -1.5, "ä\u2028😀\0", [], {}, [1, [2, {"a": None}]]]
    answers = calls(*({"task": "echo", "input": value} for value in values))
    assert answers == [{"result": value} for value in values]


def test_a_call_without_input_has_no_argument(calls):
    given = calls({"task": "has_input"}, {"task": "has_input", "input": None}, {"task": "echo"})
    assert given == [{"result": 0}, {"result": 1}, {"result": None}]


def test_an_error_has_a_text_even_if_the_task_gave_none(calls):
    silent, empty, boom = calls(
        {"task": "silent"}, {"task": "fail", "input": ""}, {"task": "fail", "input": "boom"}
    )
    assert silent["error"] == empty["error"] == "ValueError"
    assert boom["error"] == "boom"


NAMES = ["constructor", "__proto__", "toString", "__class__", "__init__", "hasOwnProperty", "toads"]


def test_names_that_every_object_has_are_no_tasks(calls):
    for name, answer in zip(NAMES, calls(*({"task": each} for each in NAMES)), strict=True):
        assert "result" not in answer
        assert name in answer["error"]


def test_tasks_may_have_such_names(javascript):
    with served("tests.interop.work:ODD") as server:
        names = ["constructor", "__class__"]
        calls = [{"task": name, "input": 1} for name in names]
        answers = javascript.call(f"ws://127.0.0.1:{server.port}/ws", calls)
        assert answers == [{"result": [name, 1]} for name in names]
        answers = javascript.call(f"{server.url}/compute", calls)
        assert [json.loads(each["body"]) for each in answers] == [
            {"result": [name, 1]} for name in names
        ]


def test_an_input_of_the_wrong_kind_is_refused(calls):
    (answer,) = calls({"task": "fail", "input": 5})
    assert "str" in answer["error"]


def test_integers_stay_exact(javascript, ours):
    frame = '{"id": 9007199254740993, "task": "echo", "input": 18014398509481985}'
    ((answer,),) = javascript.call(
        f"ws://127.0.0.1:{ours.port}/ws", [{"frames": [frame], "answers": 1}]
    )
    assert json.loads(answer) == {"id": 9007199254740993, "result": 18014398509481985}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("", 400),
        ("not JSON", 400),
        ("[1]", 400),
        ("{}", 400),
        ('{"task": 5}', 400),
        ('{"task": ""}', 400),
        ('{"task": "toads"}', 404),
        ('{"task": "constructor"}', 404),
        ('{"task": "__class__", "input": 1}', 404),
        ('{"task": "fail"}', 422),
        ('{"task": "fail", "input": NaN}', 400),
        ('{"task": "silent"}', 500),
    ],
)
def test_http_has_a_status_and_an_error_for_each_mistake(javascript, ours, body, status):
    (answer,) = javascript.call(f"{ours.url}/compute", [{"body": body}])
    assert answer["status"] == status
    assert answer["type"] == "application/json"
    assert json.loads(answer["body"])["error"].strip()


def talk(javascript, ours, frames, answers):
    """Send frames as they are; return the frames that came back."""
    call = {"frames": frames, "answers": answers}
    (came,) = javascript.call(f"ws://127.0.0.1:{ours.port}/ws", [call])
    return [json.loads(each) for each in came]


@pytest.mark.parametrize("frame", ["not JSON", "", "5", "null", "{}", '{"task": "echo"}'])
def test_a_frame_that_is_no_call_is_answered_and_the_connection_stays(javascript, ours, frame):
    right = '{"id": 1, "task": "echo", "input": "right"}'
    bad, good = sorted(talk(javascript, ours, [frame, right], 2), key=lambda each: "result" in each)
    assert good == {"id": 1, "result": "right"}
    assert bad["id"] is None
    assert bad["error"].strip()


def test_an_array_is_a_batch_also_when_it_has_no_call(javascript, ours):
    ((bad,),) = talk(javascript, ours, ["[1]"], 1)
    assert bad["id"] is None
    assert bad["error"].strip()


@pytest.mark.parametrize("identity", ["1", "a", "", 0, -1, 2**53, 2**70])
def test_an_id_comes_back_with_its_type(javascript, ours, identity):
    frame = json.dumps({"id": identity, "task": "echo", "input": 5})
    (answer,) = talk(javascript, ours, [frame], 1)
    assert answer == {"id": identity, "result": 5}
    assert type(answer["id"]) is type(identity)


@pytest.mark.parametrize("identity", [1.5, True, None, [1], {"a": 1}])
def test_an_id_of_no_good_type_is_refused(javascript, ours, identity):
    frame = json.dumps({"id": identity, "task": "echo", "input": 5})
    (answer,) = talk(javascript, ours, [frame], 1)
    assert answer["id"] is None
    assert answer["error"].strip()


def test_the_same_id_twice_gets_two_answers_at_most(javascript, ours):
    """The second is refused while the first runs, and what runs has its one answer."""
    first = '{"id": 1, "task": "wait"}'
    second = '{"id": 1, "task": "echo", "input": "second"}'
    other = '{"id": 2, "task": "echo", "input": "other"}'
    answers = talk(javascript, ours, [first, second, other], 2)
    refused, right = sorted(answers, key=lambda each: "result" in each)
    assert refused["id"] is None  # an answer to 1 would be taken for that of the first
    assert "1" in refused["error"]
    assert right == {"id": 2, "result": "other"}


def test_a_client_that_leaves_with_calls_pending_takes_nothing_with_it(javascript, ours):
    # More than may run at once: the places of those that left must be free again.
    url = f"ws://127.0.0.1:{ours.port}/ws"
    calls = [*({"task": "wait"} for _ in range(40)), {"leave": True}]
    for _ in range(2):
        assert [each["closed"] for each in javascript.call(url, calls)[:40]] == [1006] * 40
    values = list(range(50))
    calls = [{"task": "echo", "input": value} for value in values]
    assert javascript.call(url, calls) == [{"result": value} for value in values]


def test_through_tls_with_a_token(javascript, authority):
    token = "secret-of-the-tests-0123456789"
    options = ("--tls-cert", str(authority.cert), "--tls-key", str(authority.key))
    trust = {"NODE_EXTRA_CA_CERTS": str(authority.ca)}
    call = [{"task": "add", "input": 1}, {"task": "echo", "input": 5}]
    with served("tests.interop.work:TASKS", *options, token=token) as server:
        url = f"https://localhost:{server.port}/compute"
        refused, right = javascript.call(url, call, TOKEN=token, **trust)
        assert refused["status"] == 422  # it has two parameters
        assert json.loads(right["body"]) == {"result": 5}
        assert [each["status"] for each in javascript.call(url, call, **trust)] == [401, 401]
        url = f"wss://localhost:{server.port}/ws"
        _, right = javascript.call(url, call, TOKEN=token, **trust)
        assert right == {"result": 5}
