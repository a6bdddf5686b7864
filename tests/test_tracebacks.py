"""A printed traceback shows where the work has failed, and who has waited for it."""

from __future__ import annotations

import traceback

import pytest

from hybrid_compute import HybridExecutor, RemoteExecutor, remote_task
from hybrid_compute.errors import RemoteTaskError
from hybrid_compute.policy import Always
from tests.server.conftest import SECRET, Served
from tests.traced_work import break_off, fail, fail_oddly

pytestmark = pytest.mark.timeout(60)


def printed(work) -> str:
    try:
        the_caller_of(work)
    except Exception as error:
        return "".join(traceback.format_exception(error))
    pytest.fail("it did not fail")


def the_caller_of(work):
    work()


def shows_both(text: str) -> bool:
    """Say whether the failing line stands before the caller's, and neither more than once."""
    there, here = text.find(", in deep\n"), text.find(", in the_caller_of\n")
    return 0 < there < here and text.count(", in deep\n") == 1 == text.count(", in the_caller_of")


@pytest.fixture
def ex():
    with HybridExecutor(max_processes=1, policy=Always("process")) as executor:
        yield executor


@pytest.mark.parametrize(
    "work",
    [
        lambda ex: ex.submit(fail).result(),
        lambda ex: list(ex.map(fail, [1])),
        lambda ex: ex.submit(fail_oddly).result(),
        lambda ex: list(ex.map(fail_oddly, [1])),
        lambda ex: list(ex.submit(break_off)),
        lambda ex: list(ex.stream(break_off)),
    ],
    ids=["submit", "map", "stand-in", "map of stand-ins", "iterated", "stream"],
)
def test_of_a_worker_process(ex, work):
    assert shows_both(printed(lambda: work(ex)))


@pytest.mark.parametrize("place", ["thread", "inline"])
def test_of_this_process_it_is_one_as_ever(place):
    with HybridExecutor(policy=Always(place)) as ex:
        text = printed(lambda: ex.submit(fail).result())
    assert text.count(", in deep\n") == 1 == text.count(", in the_caller_of\n")


@pytest.fixture(scope="module")
def services():
    served = [Served("tests.traced_work:TASKS", *options) for options in (["--debug"], [])]
    yield served
    for each in served:
        each.end()


def client(service, scheme):
    path = "/ws" if scheme == "ws" else "/compute"
    return RemoteExecutor(f"{scheme}://127.0.0.1:{service.port}{path}", token=SECRET)


@pytest.mark.parametrize("scheme", ["http", "ws"])
@pytest.mark.parametrize("name", ["fail", "fail_inline", "fail_in_process", "fail_oddly"])
def test_of_a_service_that_shows_it(services, scheme, name):
    with client(services[0], scheme) as ex:
        assert shows_both(printed(lambda: ex.submit(remote_task(name)).result()))


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_of_a_stream_of_such_a_service(services, scheme):
    with client(services[0], scheme) as ex:
        assert shows_both(printed(lambda: list(ex.stream(remote_task("break_off")))))


@pytest.mark.parametrize("scheme", ["http", "ws"])
@pytest.mark.parametrize("name", ["fail", "fail_inline", "fail_in_process"])
def test_a_service_that_keeps_it_to_itself_gives_nothing_away(services, scheme, name):
    with client(services[1], scheme) as ex:
        error = ex.submit(remote_task(name)).exception()
    assert isinstance(error, RemoteTaskError)
    assert (error.traceback_text, error.__cause__) == ("", None)
