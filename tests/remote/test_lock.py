"""The lock of a line: nothing that comes while it is held is forgotten."""

from __future__ import annotations

import ast
import inspect
import threading
from collections import deque

import pytest

from hybrid_compute import remote_task
from hybrid_compute.executors import _remote_line
from hybrid_compute.executors._remote_lock import PumpLock
from tests.remote.servers import serving
from tests.remote.test_websocket import client, plain

pytestmark = pytest.mark.timeout(30)

echo = remote_task("echo")


def held(lock: PumpLock):
    """Hold a lock on another thread; return an event that ends that, and the thread."""
    inside, go = threading.Event(), threading.Event()

    def keep() -> None:
        inside.set()
        go.wait()

    thread = threading.Thread(target=lock.hold, args=(keep,))
    thread.start()
    inside.wait()
    return go, thread


def test_an_item_that_is_pushed_while_anybody_holds_the_lock_is_sent_when_he_lets_go():
    with serving(plain) as port, client(port) as ex:
        assert ex.submit(echo, 1).result() == 1
        go, thread = held(ex._half._lock)
        future = ex.submit(echo, 2)  # does not wait
        assert not future.done()
        go.set()
        thread.join()
        assert future.result(20) == 2


def test_nobody_holds_the_lock_of_a_line_but_by_hold():
    tree = ast.parse(inspect.getsource(_remote_line))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self._lock"
    }
    assert used <= {"hold", "held_here", "mark", "wake"}


def test_what_is_marked_inside_is_done_by_the_outermost_and_once():
    done: list[int] = []
    todo: deque[int] = deque()

    def pump(_: list) -> None:
        while todo:
            done.append(todo.popleft())

    lock = PumpLock(pump, lambda _: None)

    def inner() -> None:
        todo.append(1)
        lock.wake()
        assert not done

    lock.hold(lambda: lock.hold(inner))
    assert done == [1]
    with pytest.raises(ZeroDivisionError):
        lock.hold(lambda: (todo.append(2), lock.wake(), 1 // 0))
    assert done == [1, 2]


def test_none_of_many_items_from_many_threads_is_forgotten():
    done: list[object] = []
    todo: deque[object] = deque()

    def pump(outcomes: list) -> None:
        while todo:
            outcomes.append(todo.popleft())

    lock = PumpLock(pump, done.extend)

    def put() -> None:
        for number in range(500):
            todo.append(number)
            lock.wake()
            lock.hold(int)

    threads = [threading.Thread(target=put) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(done) == 2000
