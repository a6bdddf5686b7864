"""Link: one transport under test, and all that a rule needs to look at it.

Owns what people write, `Link`, and what rules see: `LinkScene`, which closes both ends whatever
happened, and `Calls`, which keeps a record of what the transport calls. Whatever might not return
is called on a thread of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, NoReturn, Protocol, Self, TypeAlias

from hybrid_compute.testing._checks import ContractBroken, Rule, call
from hybrid_compute.transports import Transport

__all__ = ["MOMENT", "Calls", "Link", "LinkScene", "MakeLink", "send_all"]

MOMENT = 0.05  # seconds that one who should wait is given to show that he does not


def send_all(send: Callable[[bytes], None], frames: Sequence[bytes]) -> None:
    """Send frames, one after the other."""
    for each in frames:
        send(each)


class Link(Protocol):
    """A transport that is not open yet, and the other end of it.

    All but `transport` is called by one thread; what blocks does so for `timeout` seconds at most.
    """

    transport: Transport

    def receive(self, timeout: float) -> bytes | None:
        """Wait up to `timeout` seconds for the next whole frame that came; None: none."""
        ...

    def send(self, frame: bytes) -> None:
        """Have the other end send a frame. Not before `transport.open` has returned."""
        ...

    def vanish(self) -> None:
        """Have the other end hang up, if there is a connection, and accept no other."""
        ...

    def close(self) -> None:
        """Free all that the other end has. Called once, last; may block."""
        ...


MakeLink: TypeAlias = Callable[[], Link]


class Calls:
    """What a transport has called, from which thread, and how."""

    def __init__(self, on_frame: Callable[[bytes], None] | None = None) -> None:
        self._then = on_frame
        self._changed = threading.Condition()  # guards all of these
        self.frames: list[bytes] = []
        self.lost: list[object] = []
        self.threads: set[int] = set()
        self.late = self.inside = self.overlapped = 0

    def on_frame(self, frame: bytes) -> None:
        """Note a frame."""
        with self._changed:
            self.frames.append(frame)
            self.threads.add(threading.get_ident())
            self.late += bool(self.lost)
            self.overlapped += self.inside
            self.inside += 1
            self._changed.notify_all()
        try:
            if self._then is not None:
                self._then(frame)
        finally:
            with self._changed:
                self.inside -= 1

    def on_lost(self, why: Exception) -> None:
        """Note the end."""
        with self._changed:
            self.lost.append(why)
            self.threads.add(threading.get_ident())
            self.overlapped += self.inside
            self._changed.notify_all()

    def wait(self, condition: Callable[[], object], timeout: float) -> bool:
        """Wait until a condition of these lists holds."""
        with self._changed:
            return bool(self._changed.wait_for(condition, timeout))


class LinkScene:
    """One link under test."""

    def __init__(self, rule: Rule[LinkScene], make: MakeLink, timeout: float) -> None:
        self._rule = rule
        self._make = make
        self.timeout = timeout
        self._opened = False

    def __enter__(self) -> Self:
        self.before = set(threading.enumerate())
        self.link = self._make()
        self.transport = self.link.transport
        self.calls = Calls()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._opened:
            call(self.transport.close, self.timeout if error is None else MOMENT)
        call(self.link.close, self.timeout)

    def holds(self, rule: Rule[Any]) -> bool:
        """Return True: all rules hold for all transports."""
        return True

    def broken(self, seen: str) -> NoReturn:
        """Raise ContractBroken."""
        told = type(getattr(self, "transport", None)).__name__
        raise ContractBroken(self._rule.name, self._rule.text, told, seen)

    def demand(self, condition: object, seen: str) -> None:
        """Raise ContractBroken unless the condition holds."""
        if not condition:
            self.broken(seen)

    def bounded(self, what: str, do: Callable[[], Any]) -> Any:
        """Return what a function returns; it is broken if that takes too long."""
        returned, tell = call(do, self.timeout)
        if not returned:
            self.broken(f"{what} had not returned after {self.timeout:g} s")
        return tell()

    def open(self, on_frame: Callable[[bytes], None] | None = None) -> Calls:
        """Open the transport; return what it will call."""
        self.calls = calls = Calls(on_frame)
        self.bounded("open()", lambda: self.transport.open(calls.on_frame, calls.on_lost))
        self._opened = True
        return calls

    def send(self, *frames: bytes) -> None:
        """Send frames."""
        self.bounded("send()", lambda: send_all(self.transport.send, frames))

    def receive(self, count: int) -> list[bytes]:
        """Return so many frames that the other end got, or those that came in time."""
        end = time.monotonic() + self.timeout
        found: list[bytes] = []
        while len(found) < count:
            frame = self.link.receive(max(0.0, end - time.monotonic()))
            if frame is None:
                break
            found.append(frame)
        return found

    def ended(self) -> None:
        """Wait for `on_lost`."""
        came = self.calls.wait(lambda: self.calls.lost, self.timeout)
        self.demand(came, f"on_lost was not called within {self.timeout:g} s")
