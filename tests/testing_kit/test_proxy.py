"""FaultProxy: each fault does what it says, also to connections that there are, and goes again."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time

import pytest

from hybrid_compute.testing import FaultProxy
from hybrid_compute.testing._faults import Bandwidth, Latency, Plan, Slicer

WAIT = 30  # seconds that nothing takes which works


@contextlib.contextmanager
def echoing(*, reads: bool = True):
    """A port that sends everything back."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads, socks = [], []

    def echo(sock):
        with contextlib.suppress(OSError):
            while reads and (data := sock.recv(65536)):
                sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                socks.append(listener.accept()[0])
                threads.append(threading.Thread(target=echo, args=(socks[-1],)))
                threads[-1].start()

    threads.append(threading.Thread(target=accept))
    threads[0].start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        threads[0].join()
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for each in threads:
            each.join()
        for sock in socks:
            sock.close()


@pytest.fixture
def proxy():
    with echoing() as port, FaultProxy("127.0.0.1", port) as proxy:
        yield proxy


@pytest.fixture
def dial(proxy):
    with contextlib.ExitStack() as stack:

        def dial():
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port)))
            sock.settimeout(WAIT)
            return sock

        yield dial


def read(sock, count):
    data = b""
    while len(data) < count and (more := sock.recv(count - len(data))):
        data += more
    return data


def ask(sock, data=b"hello"):
    sock.sendall(data)
    return read(sock, len(data))


def quiet(sock):
    """Say whether nothing comes, for a moment."""
    sock.settimeout(0.05)
    try:
        return sock.recv(1) is None
    except TimeoutError:
        return True
    finally:
        sock.settimeout(WAIT)


def test_without_faults_everything_goes_through_both_ways(proxy, dial):
    data = random.Random(1).randbytes(3_000_000)
    sock = dial()
    writer = threading.Thread(target=sock.sendall, args=(data,))
    writer.start()
    assert read(sock, len(data)) == data
    writer.join()
    sock.shutdown(socket.SHUT_WR)
    assert sock.recv(1) == b""
    assert proxy.passed_bytes == 2 * len(data)


def test_latency_delays_all_data_and_ends_with_its_block(proxy, dial):
    sock = dial()
    with proxy.latency(0.1, direction="upstream"):
        began = time.monotonic()
        assert ask(sock) == b"hello"
        assert time.monotonic() - began >= 0.1
    with proxy.latency(3600):
        sock.sendall(b"late")
        assert quiet(sock)
    assert read(sock, 4) == b"late"


def test_bandwidth_lets_so_many_bytes_a_second_through(proxy, dial):
    with proxy.bandwidth(10_000, direction="downstream"):
        began = time.monotonic()
        assert ask(dial(), b"x" * 2000) == b"x" * 2000
        assert time.monotonic() - began >= 0.19


def test_a_slicer_delivers_pieces(proxy, dial):
    sock = dial()
    with proxy.slicer(2, delay=3600, direction="downstream"):
        sock.sendall(b"sliced")
        assert sock.recv(100) == b"sl"
        assert quiet(sock)
    assert read(sock, 4) == b"iced"


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("size", [0, 1, 7])
def test_limit_data_ends_a_connection_after_exactly_so_many_bytes(proxy, dial, size, reset):
    proxy.limit_data(size, direction="downstream", reset=reset)
    sock = dial()
    got = b""
    with contextlib.suppress(ConnectionResetError):
        sock.sendall(b"0123456789")
        while data := sock.recv(100):
            got += data
    assert got == b"0123456789"[:size]
    assert proxy.passed_bytes == size + 10 * (size > 0)


def test_limit_data_of_both_directions_counts_them_together(proxy, dial):
    proxy.limit_data(15)
    sock = dial()
    with pytest.raises(ConnectionResetError):
        sock.sendall(b"0123456789")
        while sock.recv(100):
            pass
    assert proxy.passed_bytes == 15


def test_reset_peer_resets_the_connections_that_there_are(proxy, dial):
    sock = dial()
    assert ask(sock) == b"hello"
    with proxy.reset_peer(new_connections=False):
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        assert ask(dial()) == b"hello"


@pytest.mark.parametrize("keep", [False, True])
def test_a_timeout_swallows_and_tells_nobody(proxy, dial, keep):
    sock = dial()
    assert ask(sock) == b"hello"
    with proxy.timeout(keep=keep, new_connections=False):
        sock.sendall(b"lost")
        assert quiet(sock)
        assert ask(dial()) == b"hello"
    if keep:
        assert read(sock, 4) == b"lost"
        assert ask(sock) == b"hello"


@pytest.mark.parametrize("direction", ["upstream", "downstream", "both"])
@pytest.mark.parametrize("ends", ["remove", "heal"])
def test_a_connection_that_has_lost_data_is_reset_when_the_timeout_ends(direction, ends):
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        proxy = stack.enter_context(FaultProxy(*target.getsockname()))

        def pair():
            near = stack.enter_context(socket.create_connection((proxy.host, proxy.port)))
            far = stack.enter_context(target.accept()[0])
            near.settimeout(WAIT)
            far.settimeout(WAIT)
            return near, far

        idle, busy = pair(), pair()
        fault = proxy.timeout(direction=direction, new_connections=False)
        busy[direction == "downstream"].sendall(b"lost")
        later = pair()
        for _ in range(2):  # or the proxy may not have seen what was sent before
            later[0].sendall(b"x")
            assert later[1].recv(1) == b"x"
        fault.remove() if ends == "remove" else proxy.heal()
        for sock in busy:
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        for near, far in (idle, later):
            near.sendall(b"there")
            assert read(far, 5) == b"there"
            far.sendall(b"back")
            assert read(near, 4) == b"back"


def let_it_read(dial):
    """Return when the proxy has read what was sent before, and is at what was sent later."""
    sock = dial()
    assert ask(sock) == ask(sock) == b"hello"


def test_data_that_waited_when_they_were_swallowed_are_lost_too(proxy, dial):
    sock = dial()
    assert ask(sock) == b"hello"
    proxy.latency(3600, new_connections=False)
    sock.sendall(b"late")
    let_it_read(dial)
    proxy.timeout()
    proxy.heal()
    with pytest.raises(ConnectionResetError):
        sock.recv(1)


def test_nobody_is_told_of_a_loss_while_another_timeout_is_on(proxy, dial):
    sock = dial()
    assert ask(sock) == b"hello"
    first = proxy.timeout(new_connections=False)
    second = proxy.timeout(keep=True, new_connections=False)
    sock.sendall(b"lost")
    let_it_read(dial)
    first.remove()
    assert quiet(sock)
    second.remove()
    with pytest.raises(ConnectionResetError):
        sock.recv(1)


def test_a_timeout_with_an_end_ends_the_connection_in_good_order(proxy, dial):
    sock = dial()
    assert ask(sock) == b"hello"
    proxy.timeout(0.05)
    assert sock.recv(1) == b""


def test_slow_close_tells_of_the_end_late(proxy, dial):
    sock = dial()
    assert ask(sock) == b"hello"
    with proxy.slow_close(3600, direction="upstream"):
        sock.shutdown(socket.SHUT_WR)
        assert quiet(sock)
    assert sock.recv(1) == b""


def test_a_fault_is_over_when_remove_returns(proxy, dial):
    sock = dial()
    for _ in range(50):
        proxy.timeout().remove()
        assert ask(sock) == b"hello"


def test_heal_ends_all_faults(proxy, dial):
    sock = dial()
    proxy.latency(3600)
    proxy.timeout(keep=True)
    sock.sendall(b"hello")
    assert quiet(sock)
    proxy.heal()
    assert read(sock, 5) == b"hello"


def test_who_does_not_read_stops_who_sends():
    with echoing(reads=False) as port, FaultProxy("127.0.0.1", port) as proxy:
        proxy.timeout(keep=True)
        with socket.create_connection(("127.0.0.1", proxy.port)) as sock:
            sock.settimeout(0.2)
            with pytest.raises(TimeoutError):
                for _ in range(1000):
                    sock.sendall(b"x" * 65536)


def test_a_target_that_is_not_there_resets_who_calls():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with FaultProxy("127.0.0.1", port) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port)) as sock:
            sock.settimeout(WAIT)
            with pytest.raises(ConnectionResetError):
                sock.recv(1)


def test_closing_ends_connections_and_may_be_repeated(proxy, dial):
    sock = dial()
    proxy.timeout()
    assert quiet(sock)
    proxy.close()
    proxy.close()
    with contextlib.suppress(ConnectionResetError):
        assert sock.recv(1) == b""


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("latency", -1, "number"),
        ("latency", "x", "number"),
        ("latency", True, "number"),
        ("bandwidth", 0, "number"),
        ("slicer", 0, "whole number"),
        ("slicer", 1.5, "whole number"),
        ("limit_data", -1, "whole number"),
        ("limit_data", 1.5, "whole number"),
        ("reset_peer", None, "number"),
        ("timeout", "1", "number"),
        ("slow_close", None, "number"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused(proxy, name, value, kind):
    with pytest.raises(ValueError, match=f"={value!r} is out of range: give a {kind} from"):
        getattr(proxy, name)(value)


@pytest.mark.parametrize("port", [0, -1, 65536, "80", None])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(ValueError, match=f"port={port!r} is none of TCP: give a whole number"):
        FaultProxy("127.0.0.1", port)


def test_an_unknown_direction_is_refused(proxy):
    with pytest.raises(ValueError, match="direction='up' is unknown; there are 'upstream'"):
        proxy.latency(1, direction="up")


def scope(kind, **settings):
    return kind(direction="both", since=0, new_connections=True, **settings)


def test_a_plan_adds_up_what_delays_and_keeps_the_order():
    chance = random.Random(1)
    plan = Plan()
    faults = [
        scope(Latency, seconds=1.0, jitter=0.0),
        scope(Slicer, size_bytes=2, delay=0.5),
        scope(Bandwidth, bytes_per_second=100.0),
    ]
    assert list(plan.pieces(b"abcd", faults, 10.0, chance)) == [
        (pytest.approx(11.02), b"ab"),
        (pytest.approx(11.54), b"cd"),
    ]
    assert [due for due, _ in plan.pieces(b"e", [], 10.0, chance)] == [pytest.approx(11.54)]


def test_jitter_stays_within_its_bounds():
    fault = scope(Latency, seconds=1.0, jitter=0.5)
    chance = random.Random(1)
    dues = [next(Plan().pieces(b"x", [fault], 0.0, chance))[0] for _ in range(200)]
    assert 0.5 <= min(dues) < 0.7
    assert 1.3 < max(dues) <= 1.5
