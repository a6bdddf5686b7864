"""Log records of worker processes reach the loggers of the caller, whose levels hold there."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading

import pytest

from hybrid_compute import ProcessExecutor
from hybrid_compute.errors import ConfigurationError

pytestmark = pytest.mark.timeout(60)


def say(text="hello", level=logging.WARNING, name="tests.worker", **more):
    import logging

    logging.getLogger(name).log(level, text, **more)
    return os.getpid()


@pytest.fixture
def ex():
    with ProcessExecutor(1) as executor:
        yield executor


class Noting(logging.Handler):
    """Keeps what it is handed."""

    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)


@pytest.fixture
def noted():
    handler = Noting()
    logging.getLogger().addHandler(handler)
    yield handler.records
    logging.getLogger().removeHandler(handler)


def test_a_record_is_there_before_the_result(ex, noted):
    pid = ex.submit(say, "at %s", extra=None).result()
    (record,) = noted
    assert (record.name, record.levelname, record.getMessage()) == (
        "tests.worker",
        "WARNING",
        "at %s",
    )
    assert record.process == pid != os.getpid()
    assert record.funcName == "say"


def test_arguments_are_in_the_text_and_exceptions_as_text(ex, noted):
    def fail():
        log = logging.getLogger("tests.worker")
        try:
            raise ValueError("why")
        except ValueError:
            log.exception("no %r", threading.Lock(), stack_info=True)

    ex.submit(fail).result()
    (record,) = noted
    assert record.getMessage().startswith("no <unlocked _thread.lock")
    assert "ValueError: why" in record.exc_text
    assert "in fail" in record.stack_info
    assert "ValueError: why" in logging.Formatter().format(record)


def test_what_was_attached_comes_along_as_it_is_or_as_text(ex, noted):
    def attach():
        extra = {"user": "ada", "tags": {1, 2}, "lock": threading.Lock(), "much": b"x" * 10**6}
        logging.getLogger("tests.worker").warning("x", extra=extra)

    ex.submit(attach).result()
    (record,) = noted
    assert (record.user, record.tags) == ("ada", {1, 2})
    assert record.lock.startswith("<unlocked _thread.lock")
    assert record.msg == "x"


def test_what_the_caller_would_not_take_is_not_even_made(ex, noted):
    def ask(name):
        import logging

        log = logging.getLogger(name)
        log.info("dropped in the worker")
        return log.getEffectiveLevel(), log.isEnabledFor(logging.INFO)

    assert ex.submit(ask, "tests.worker.deep").result() == (logging.WARNING, False)
    assert noted == []


def test_changed_levels_follow(ex, noted, caplog):
    def ask():
        import logging

        logging.getLogger("tests.worker.deep").debug("hello")
        return logging.getLogger("tests.worker.deep").getEffectiveLevel()

    assert ex.submit(ask).result() == logging.WARNING
    with caplog.at_level(logging.DEBUG, logger="tests.worker"):
        assert ex.submit(ask).result() == logging.DEBUG
        assert [each.getMessage() for each in noted] == ["hello"]
        logging.disable(logging.DEBUG)
        try:
            ex.submit(ask).result()
            assert len(noted) == 1
        finally:
            logging.disable(logging.NOTSET)
    assert ex.submit(ask).result() == logging.WARNING
    with caplog.at_level(logging.INFO):
        assert ex.submit(ask).result() == logging.INFO


def test_levels_of_the_moment_when_a_worker_starts_hold_in_its_initializer(noted, caplog):
    with (
        caplog.at_level(logging.INFO, logger="tests.worker"),
        ProcessExecutor(1, initializer=say, initargs=("begin", logging.INFO)) as ex,
    ):
        ex.submit(int).result()
    assert [each.getMessage() for each in noted] == ["begin"]


def test_a_call_that_takes_long_is_heard_meanwhile(ex, tmp_path):
    told = threading.Event()

    class Telling(logging.Handler):
        def emit(self, record):
            told.set()

    def wait_for(path):
        logging.getLogger("tests.worker").warning("I wait")
        with open(path) as fifo:
            return fifo.read()

    handler = Telling()
    logging.getLogger("tests.worker").addHandler(handler)
    path = tmp_path / "fifo"
    os.mkfifo(path)
    try:
        future = ex.submit(wait_for, path)
        assert told.wait(30)
        assert not future.done()
    finally:
        path.write_text("go")
        logging.getLogger("tests.worker").removeHandler(handler)
    assert future.result() == "go"


def test_records_of_a_worker_that_dies_are_not_lost(ex, noted):
    def die():
        logging.getLogger("tests.worker").warning("last words")
        os._exit(3)

    assert ex.submit(die).exception() is not None
    assert [each.getMessage() for each in noted if each.name == "tests.worker"] == ["last words"]


def test_threads_and_streams_of_the_work_may_log(ex, noted):
    def count():
        log = logging.getLogger("tests.worker")
        for number in range(300):
            log.warning("step %d", number)
            yield number
        thread = threading.Thread(target=log.warning, args=("of a thread",))
        thread.start()
        thread.join()

    assert list(ex.stream(count)) == list(range(300))
    texts = [each.getMessage() for each in noted]
    assert texts == [*(f"step {number}" for number in range(300)), "of a thread"]


def test_many_records_cost_no_answer_and_what_is_dropped_is_told(ex, noted):
    def flood():
        log = logging.getLogger("tests.worker")
        thread = threading.Thread(target=lambda: [log.warning("%d", i) for i in range(1500)])
        thread.start()
        thread.join()
        return "done"

    futures = [ex.submit(flood) for _ in range(3)]
    assert [future.result() for future in futures] == ["done"] * 3
    texts = [each.getMessage() for each in noted]
    assert len(texts) == 3 * 1001
    assert sum("500 log records of worker process" in each for each in texts) == 3


def test_a_flood_of_the_call_itself_is_taken_or_told(ex, noted):
    def flood():
        log = logging.getLogger("tests.worker")
        for number in range(5000):
            log.warning("%d %s", number, "x" * 200)
        return "done"

    assert ex.submit(flood).result() == "done"
    last = [each.getMessage().partition(" ")[0] for each in noted if "dropped" not in each.msg]
    assert last[-1] == "4999"
    assert list(map(int, last)) == sorted(map(int, last))


def test_a_record_from_a_finalizer_in_the_middle_of_things_does_no_harm(ex, noted):
    class Gone:
        def __del__(self):
            logging.getLogger("tests.worker").warning("gone")

        def __reduce__(self):
            logging.getLogger("tests.worker").warning("pickled")
            return str, ("pickled",)

    def leave(number):
        Gone()
        return [Gone() for _ in range(number)]

    assert [ex.submit(leave, 3).result() for _ in range(5)] == [["pickled"] * 3] * 5
    assert {each.getMessage() for each in noted} == {"gone", "pickled"}


def test_a_child_of_a_worker_keeps_its_records_to_itself(ex, noted):
    def fork():
        logging.getLogger("tests.worker").error("of the worker")
        process = multiprocessing.get_context("fork").Process(target=say, args=("of a child",))
        process.start()
        process.join()
        return process.exitcode

    assert ex.submit(fork).result() == 0
    assert ex.submit(fork).result() == 0
    assert [each.getMessage() for each in noted] == ["of the worker"] * 2


def test_who_configures_logging_in_the_worker_anew_is_left_alone(ex, noted, tmp_path):
    def configure(path):
        import logging

        logging.basicConfig(filename=path, force=True)
        logging.getLogger("tests.worker").warning("here")

    ex.submit(configure, tmp_path / "log").result()
    assert noted == []
    assert "here" in (tmp_path / "log").read_text()


def test_it_can_be_turned_off(noted):
    def handlers():
        import logging

        return len(logging.root.handlers), logging.getLogger("tests.worker").level

    with ProcessExecutor(1, forward_logs=False) as ex:
        assert ex.submit(handlers).result() == (0, 0)
    assert noted == []
    with pytest.raises(ConfigurationError, match="forward_logs"):
        ProcessExecutor(1, forward_logs=None)


def test_a_handler_here_that_raises_costs_no_answer(ex, caplog):
    class Bad(logging.Filter):
        def filter(self, record):
            raise SystemExit("no")

    bad = Bad()
    logging.getLogger("tests.worker").addFilter(bad)
    try:
        assert ex.submit(say).result()
        assert ex.submit(say).result()
    finally:
        logging.getLogger("tests.worker").removeFilter(bad)
    assert "exception delivering" in caplog.text


def test_a_worker_whose_work_does_not_log_does_not_load_logging(ex):
    # By name, since this module imports logging.
    assert ex.submit(eval, "'logging' in __import__('sys').modules").result() is False
