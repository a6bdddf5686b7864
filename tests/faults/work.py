"""What the fault tests have done by worker processes: faults, and work that suffers from none.

Each new worker imports this module anew, so it imports only what Python has loaded anyhow.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

SOON = 60.0  # seconds; nothing takes that long, and a hang shall be a failure of its own test


# Work.


def echo(x):
    return x


def my_pid():
    """As os.getpid; the worker has this module then, and what comes next starts at once."""
    return os.getpid()


def wait_for_file(path, seconds=SOON):
    """Return when the file is there: the one thing that parent and worker both can wait for."""
    deadline = time.monotonic() + seconds
    while not os.path.exists(path):
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.002)


def hold(begun, go, value=None):
    """Occupy a worker: say so by one file, and go on when the other is there."""
    Path(begun).touch()
    wait_for_file(go)
    return value


def maybe_hold(begun=None, go=None):
    """Be known as short, and then take long."""
    if begun is not None:
        hold(begun, go)


def note(path, text="x"):
    """Leave a trace of each run: what is appended by one write is whole."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, text.encode())
    os.close(fd)
    return text


def length(*values):
    return sum(map(len, values))


def tell(path, *pids):
    """Write process ids into a file, which appears at once and whole."""
    Path(f"{path}.new").write_text(" ".join(map(str, pids)))
    os.rename(f"{path}.new", path)


def told(path):
    """Return the process ids that `tell` has written."""
    wait_for_file(path)
    return [int(word) for word in Path(path).read_text().split()]


# Ways to die.


def kill_myself(number=signal.SIGKILL):
    os.kill(os.getpid(), number)
    time.sleep(SOON)  # SIGKILL of oneself is over before; others may take a moment


def segfault():
    faulthandler._sigsegv()


def silent_segfault():
    faulthandler.disable()
    faulthandler._sigsegv()


def c_exit(code):
    import ctypes

    ctypes.CDLL(None).exit(code)


class WhenUnpickled:
    """Calls a function when it is unpickled, the result of which takes its place."""

    def __init__(self, fn, *args):
        self.fn, self.args = fn, args

    def __reduce__(self):
        return self.fn, self.args


class WhenPickled:
    """Calls a function when it is pickled."""

    def __init__(self, fn, *args):
        self.fn, self.args = fn, args

    def __reduce__(self):
        self.fn(*self.args)
        raise AssertionError("it came back")


class WhenFreed:
    """Calls a function when it is freed."""

    def __init__(self, fn, *args):
        self.fn, self.args = fn, args

    def __del__(self):
        self.fn(*self.args)


def return_when_pickled(fn, *args):
    return WhenPickled(fn, *args)


def return_when_unpickled(fn, *args):
    return WhenUnpickled(fn, *args)


def return_large_and(fn, *args):
    """Return much that is pickled before the fault happens."""
    return [bytes(300_000), bytearray(2_000_000), WhenPickled(fn, *args)]


def free(fn, *args):
    WhenFreed(fn, *args)


def raise_from_del():
    WhenFreed(raise_it, LookupError("from __del__"))
    return "unharmed"


# Ways to fail.


def raise_it(error):
    raise error


def raise_made(cls, *args):
    """Raise an exception that could not be sent to the worker."""
    raise cls(*args)


def recurse(n=0):
    return recurse(n + 1) + 1


def nested_list(depth):
    outer = []
    for _ in range(depth):
        outer = [outer]
    return outer


def exhaust_address_space():
    """Run into a limit of one's own, as a program that sets one for each of its tasks."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + (64 << 20), before[1]))
    try:
        return len(bytearray(1 << 30))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


class Local:
    """To be a member of a module that the other side cannot import."""


def make_only_here(name):
    """Return an instance of a class which only this process can import."""
    module = ModuleType(name)
    module.Thing = type("Thing", (), {"__module__": name})
    sys.modules[name] = module
    return module.Thing()


def make_lock():
    return threading.Lock()


class TwoArguments(Exception):
    """The most ordinary exception that pickle cannot restore."""

    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")
        self.a, self.b = a, b


class BrokenReduce(Exception):
    def __reduce__(self):
        raise LookupError("no pickle of mine")


class ExitsInReduce(Exception):
    def __reduce__(self):
        raise SystemExit("no pickle of mine")


class DiesInReduce(Exception):
    def __reduce__(self):
        os._exit(10)


class RaisesWhenLoaded(Exception):
    def __reduce__(self):
        return raise_it, (LookupError("no unpickling of mine"),)


class UnpicklableAttribute(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


class TextOfItsOwn(Exception):
    """Pickle restores it without complaint, as "code code 5"."""

    def __init__(self, code):
        super().__init__(f"code {code}")


# Ways to last.


def hang(path):
    """Ignore SIGTERM, together with a child that does so too, and tell both process ids."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = os.fork()
    while child == 0:
        time.sleep(SOON)
    tell(path, os.getpid(), child)
    while True:
        time.sleep(SOON)


def hang_with_family(path):
    """As `hang`, with a child in a session of its own, which has a child itself."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        grandchild = os.fork()
        if grandchild:
            os.write(write, b"%d" % grandchild)
        while True:
            time.sleep(SOON)
    tell(path, os.getpid(), child, int(os.read(read, 32)))
    while True:
        time.sleep(SOON)


def hang_gently(path, farewell):
    """End as soon as SIGTERM says so, with a farewell."""

    def leave(*_):
        note(farewell, "bye")
        os._exit(0)

    signal.signal(signal.SIGTERM, leave)
    tell(path, os.getpid())
    while True:
        time.sleep(SOON)


def hang_plainly(path):
    """Leave SIGTERM as it is."""
    tell(path, os.getpid())
    while True:
        time.sleep(SOON)


def spin(path):
    """Hang in a loop that never waits."""
    tell(path, os.getpid())
    while True:
        pass


# What single tests have done.


def short_or_deadly(x):
    if x == "die":
        os._exit(3)
    return x


def echo_or_deadly(x):
    return x if x is not None else WhenPickled(os._exit, 8)


def kill_a_friend(path):
    (pid,) = told(path)
    os.kill(pid, signal.SIGKILL)
    return pid


def tell_and_wait(path):
    tell(path, os.getpid())
    wait_for_file(f"{path} never")


def die_soon(go):
    """Leave a thread behind that ends the process when the call is long over."""

    def die():
        wait_for_file(go)
        os._exit(5)

    threading.Thread(target=die, daemon=True).start()
    return os.getpid()


def note_length(path, data):
    note(path)
    return len(data)


def large_answer(path, n, size=150_000):
    note(path)
    return bytes([n % 256]) * size


def die_at_first(path, times=1):
    """Die as often as is said, then return how often it ran."""
    note(path)
    runs = path.stat().st_size
    if runs <= times:
        kill_myself()
    return runs


def note_and_return_lock(path):
    note(path)
    return make_lock()


def note_and_return_trap(path):
    note(path)
    return WhenUnpickled(raise_it, LookupError("a trap"))


def note_and(path, fn, *args):
    note(path)
    fn(*args)


def fail_every_second_time(path):
    note(path)
    if path.stat().st_size % 2:
        raise ValueError("this time")


def die_twice_at_start(path):
    note(path)
    if path.stat().st_size < 3:
        os.kill(os.getpid(), signal.SIGKILL)


def note_and_hang(path):
    note(path)
    hang_plainly(f"{path}.pid")


def die_first_then_hang(path):
    note(path)
    if path.stat().st_size == 1:
        kill_myself()
    hang_plainly(f"{path}.pid")


def hang_for(path, n):
    if n == 3:
        hang_plainly(path)
    return n


def enter(procs):
    """Enter a control group."""
    Path(procs).write_text(str(os.getpid()))


def enter_and_eat(procs):
    enter(procs)
    eat()


def eat():
    """Take more memory than the control group has."""
    eaten = []
    while True:
        eaten.append(b"x" * 10_000_000)


def eat_in_child():
    """Have a child process take more memory than there is; it dies, and this one does not."""
    child = os.fork()
    if child == 0:
        # The kernel takes the largest, or whom it is told to.
        Path("/proc/self/oom_score_adj").write_text("1000")
        eat()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def zeros(size):
    return bytes(size)


def zeros_in_buffer(size):
    return bytearray(size)


def measure_and_end(data):
    """Tell the length and the last items."""
    return len(data), bytes(data[-3:])


def hold_large(begun, go, data):
    hold(begun, go)
    return data


def die_with(data):
    """Die while the argument is in memory."""
    os._exit(len(data) % 7 + 1)


LOCK = threading.Lock()


def take_locks():
    """Take the locks that the caller holds, in its process, while this runs."""
    import logging

    logging.getLogger("a logger of the worker").debug("not shown")
    assert logging._lock.acquire(timeout=SOON)
    assert LOCK.acquire(timeout=SOON)
    LOCK.release()
    logging._lock.release()
    return "taken"


def die_with_locks():
    """Die while another thread of the worker holds locks."""
    import logging

    logging._lock.acquire()
    LOCK.acquire()
    os._exit(4)


def hold_and(go, fn, *args):
    """Do something as soon as the file is there."""
    wait_for_file(go)
    return fn(*args)


def note_time_and_raise(path):
    note(path, f"{time.monotonic()} ")
    raise ValueError("never works")


def hold_and_note(begun, go, path):
    """Hold, and leave a trace only if nothing has interrupted it."""
    hold(begun, go)
    return note(path)
