"""`check_executor`: executors that keep the contract pass, and each rule finds who breaks it."""

from __future__ import annotations

import contextlib
import copy
import doctest
import inspect
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from hybrid_compute import InlineExecutor, ProcessExecutor, RemoteExecutor, ThreadExecutor
from hybrid_compute.abc import Capabilities, WorkItem
from hybrid_compute.executors.foreign import ForeignExecutor
from hybrid_compute.testing import (
    ContractBroken,
    ManualExecutor,
    check_executor,
    executor_checks,
)
from hybrid_compute.testing.work import crash
from tests.server.conftest import SECRET, Served
from tests.testing_kit import lanes
from tests.testing_kit.lanes import Lanes

CHECKS = {check.name: check for check in executor_checks()}
every = pytest.mark.parametrize("check", executor_checks(), ids=str)


class Eager(ManualExecutor):
    """One that is told at once."""

    def __init__(self) -> None:
        super().__init__(capabilities=Capabilities(shares_memory=True, streams=True, blocks=True))

    def execute(self, item):
        super().execute(item)
        self.run_all()


MAKERS = {
    "inline": InlineExecutor,
    "thread": lambda: ThreadExecutor(2),
    "process": lambda: ProcessExecutor(2),
    "foreign": lambda: ForeignExecutor(ThreadPoolExecutor(2), name="foreign"),
    "manual": Eager,
    "third party": Lanes,
}


@pytest.mark.parametrize("name", MAKERS)
def test_an_executor_keeps_the_contract(name):
    check_executor(MAKERS[name], timeout=60)


@pytest.fixture(scope="module")
def server():
    served = Served("hybrid_compute.testing.work:TASKS")
    yield served
    served.end()


@pytest.mark.parametrize(("scheme", "path"), [("http", "compute"), ("ws", "ws")])
def test_a_remote_executor_keeps_the_contract(server, scheme, path):
    url = f"{scheme}://127.0.0.1:{server.port}/{path}"
    check_executor(
        lambda: RemoteExecutor(url, name=scheme, token=SECRET, max_workers=2), timeout=60
    )


def test_a_third_party_needs_less_than_60_lines():
    assert len(inspect.getsource(lanes).splitlines()) < 70
    assert len(inspect.getsource(Lanes).splitlines()) < 60


def test_the_guide_has_that_executor_to_the_letter():
    page = (Path(__file__).parents[2] / "docs" / "howto" / "executor.rst").read_text()
    examples = doctest.DocTestParser().get_examples(page)
    (code,) = [each.source for each in examples if each.source.startswith("class ")]
    assert code.strip() == inspect.getsource(Lanes).strip()


# One for each rule, which breaks it.


class Nameless(Lanes):
    def __init__(self):
        super().__init__(name="")


class DeliversTwice(Lanes):
    def run(self, item):
        item.run()
        item.succeed(item.future.result())


class FailsTwice(Lanes):
    def run(self, item):
        item.run()
        item.fail(item.future.exception())


class RunsTwice(Lanes):
    def run(self, item):
        item.fn(*item.args)
        item.run()


class StartsLate(Lanes):
    def run(self, item):
        value = item.fn(*item.args)
        item.start()
        item.succeed(value)


class Waits(Lanes):
    def execute(self, item):
        super().execute(item)
        wait([item.future])


class DoesNotWait(ManualExecutor):
    def __init__(self):
        super().__init__(capabilities=Capabilities(shares_memory=True, blocks=True))


class TakesNames(Lanes):
    def submit(self, fn, *args, **kwargs):
        return super().submit(fn, *args, **kwargs)


class Wraps(Lanes):
    def run(self, item):
        item.start()
        try:
            item.succeed(item.fn(*item.args))
        except Exception:
            item.fail(RuntimeError("it failed"))


class DiesOfExits(Lanes):
    def run(self, item):
        item.start()
        with contextlib.suppress(SystemExit):
            item.succeed(item.fn(*item.args))


class Pickles(Lanes):
    capabilities = Capabilities()

    def run(self, item):
        item.start()
        try:
            item.succeed(item.fn(*item.args))
        except Exception as error:
            with contextlib.suppress(Exception):
                item.fail(pickle.loads(pickle.dumps(error)))


class Copies(Lanes):
    def run(self, item):
        item.start()
        item.succeed(copy.deepcopy(item.fn(*item.args)))


class Keeps(Lanes):
    def execute(self, item):
        self.__dict__.setdefault("kept", []).append(item)
        super().execute(item)


class Ignores(Lanes):
    """Runs what was cancelled."""

    def execute(self, item):
        call = item.fn, item.args
        self.__dict__.setdefault("calls", {})[item] = call
        super().execute(item)

    def run(self, item):
        fn, args = self.calls[item]
        started = item.start()
        value = fn(*args)
        if started:
            item.succeed(value)


class Locks(Lanes):
    def run(self, item):
        with self._changed:
            item.run()


class NoCallbacks(Lanes):
    def execute(self, item):
        if threading.current_thread() in self._threads:
            raise RuntimeError("not from here")
        super().execute(item)


class NoLoad(Lanes):
    def load(self):
        return 0.0


class GivesNone(Lanes):
    def give_back(self, belief):
        return None


class Backwards(Lanes):
    def map(self, fn, *iterables, **options):
        return reversed(list(super().map(fn, *iterables, **options)))


class OneThread(Lanes):
    def execute(self, item):
        mine = threading.current_thread()  # not its number, which another one gets later
        if self.__dict__.setdefault("first", mine) is not mine:
            raise ValueError("not from this thread")
        super().execute(item)


class NeverRefuses(Lanes):
    def execute(self, item):
        with self._changed:
            self._queue.append(item)
            self._changed.notify()


class NeverJoins(Lanes):
    def shutdown(self, wait=True, *, cancel_futures=False):
        super().shutdown(wait=False, cancel_futures=cancel_futures)


class AlwaysJoins(Lanes):
    def shutdown(self, wait=True, *, cancel_futures=False):
        super().shutdown(cancel_futures=cancel_futures)


class NeverCancels(Lanes):
    def shutdown(self, wait=True, *, cancel_futures=False):
        super().shutdown(wait)


class OneShutdown(Lanes):
    def shutdown(self, wait=True, *, cancel_futures=False):
        if self._closed:
            raise ValueError("it is shut down already")
        super().shutdown(wait)


class OutsideOnly(Lanes):
    def shutdown(self, wait=True, *, cancel_futures=False):
        if threading.current_thread() in self._threads:
            raise ValueError("not from here")
        super().shutdown(wait, cancel_futures=cancel_futures)


class Drops(Lanes):
    """Takes work for ever, and does nothing once it is shut down."""

    def execute(self, item):
        with contextlib.suppress(RuntimeError):
            super().execute(item)


class Lingers(Lanes):
    def __init__(self):
        super().__init__()
        self.over = threading.Event()
        threading.Thread(target=self.over.wait, name="lingers").start()


class Fragile(Lanes):
    """Fails all that runs beside a crash."""

    capabilities = Capabilities(shares_memory=True, isolates=True)
    broken = False

    def run(self, item):
        if item.fn is crash:
            self.broken = True
            item.start()
            item.fail(OSError("crashed"))
            return
        item.start()
        value = item.fn(*item.args)
        item.fail(OSError("crashed")) if self.broken else item.succeed(value)


class CannotKill(Lanes):
    capabilities = Capabilities(shares_memory=True, kills=True)


class NoStreams(Lanes):
    def run(self, item):
        if item.streams:
            item.start()
            item.fail(TypeError("what is a generator?"))
        else:
            item.run()


class Wrapped(Lanes):
    """Has its way with generators."""

    def run(self, item):
        if item.streams:
            fn, *rest = item.args
            item.args = (lambda *args, **named: self.wrap(fn(*args, **named)), *rest)
        item.run()


class LosesErrors(Wrapped):
    def wrap(self, generator):
        with contextlib.suppress(ValueError):
            yield from generator


class NeverCloses(Wrapped):
    def wrap(self, generator):
        self.kept = generator
        return map(int, generator)  # which has no close()


class SendsAll(Lanes):
    capabilities = Capabilities(shares_memory=True, remote=True)

    def submit(self, fn, /, *args, **kwargs):
        item = WorkItem(fn, args, kwargs)
        self.execute(item)
        return item.future


BROKEN = {
    "describes_itself": Nameless,
    "delivers_a_result_once": DeliversTwice,
    "delivers_a_failure_once": FailsTwice,
    "runs_each_item_once": RunsTwice,
    "starts_an_item_before_its_work": StartsLate,
    "blocks_only_if_it_says_so": Waits,
    "is_done_when_execute_returns": DoesNotWait,
    "passes_keywords_of_any_name": TakesNames,
    "delivers_what_the_work_raises": Wraps,
    "survives_work_that_exits": DiesOfExits,
    "survives_errors_that_cannot_travel": Pickles,
    "passes_objects_themselves": Copies,
    "forgets_work_that_is_done": Keeps,
    "leaves_cancelled_items_alone": Ignores,
    "cancels_what_is_queued": Ignores,
    "delivers_holding_no_lock": Locks,
    "lets_callbacks_submit": NoCallbacks,
    "counts_what_it_holds": NoLoad,
    "gives_back_nothing_unknown": GivesNone,
    "is_an_executor_by_itself": Backwards,
    "takes_items_from_many_threads": OneThread,
    "refuses_after_shutdown": NeverRefuses,
    "finishes_what_it_has": NeverJoins,
    "need_not_wait": AlwaysJoins,
    "cancels_on_request": NeverCancels,
    "may_be_shut_down_again": OneShutdown,
    "may_be_shut_down_in_a_callback": OutsideOnly,
    "loses_nothing_when_it_ends": Drops,
    "leaves_no_thread": Lingers,
    "survives_work_that_crashes": Fragile,
    "ends_work_at_its_deadline": CannotKill,
    "ends_work_that_is_cancelled": CannotKill,
    "streams_items_in_order": NoStreams,
    "streams_errors_behind_the_items": LosesErrors,
    "closes_generators": NeverCloses,
    "keeps_out_what_is_local": SendsAll,
}


def test_each_rule_has_somebody_who_breaks_it():
    assert list(BROKEN) == list(CHECKS)


@pytest.mark.parametrize("name", BROKEN)
def test_who_breaks_a_rule_is_told_which(name):
    made = []

    def make():
        made.append(BROKEN[name]())
        return made[-1]

    with pytest.raises(ContractBroken) as info:
        CHECKS[name](make, timeout=0.5)
    for each in made:
        if isinstance(each, Lingers):
            each.over.set()
    broken = info.value
    assert (broken.check, broken.rule) == (name, CHECKS[name].rule)
    assert str(broken).startswith(f"{BROKEN[name].__name__} ")
    assert broken.rule in str(broken)
    assert broken.seen in str(broken)


def test_the_first_rule_that_is_broken_ends_the_suite():
    with pytest.raises(ContractBroken, match=r"Wraps 'lanes' breaks .* But another object"):
        check_executor(Wraps, timeout=0.5, skip=["passes_keywords_of_any_name"])


def test_a_rule_that_says_nothing_of_an_executor_is_kept_and_can_be_left_out():
    CHECKS["ends_work_at_its_deadline"](Lanes, timeout=0.5)
    names = {check.name for check in executor_checks(Lanes.capabilities)}
    assert "closes_generators" in names
    assert names & {"ends_work_at_its_deadline", "is_done_when_execute_returns"} == set()


def test_a_check_that_is_to_be_skipped_must_exist():
    with pytest.raises(ValueError, match="there is no check 'nothing'; there are describes_itself"):
        check_executor(Lanes, skip=["nothing"])


def test_what_an_executor_raises_is_told_with_its_cause():
    class Raises(Lanes):
        def counts(self):
            raise KeyError("count")

    with pytest.raises(ContractBroken, match="this was raised: KeyError: 'count'") as info:
        CHECKS["counts_what_it_holds"](Raises)
    assert isinstance(info.value.__cause__, KeyError)


def test_the_message_survives_being_pickled():
    error = ContractBroken("check", "rule", "subject", "seen")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.rule) == (str(error), "rule")
