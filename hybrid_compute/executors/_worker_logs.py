"""Log records of a worker process: caught, made portable, and sent to the caller.

Runs in the child, and imports next to nothing: `logging` is loaded when the work loads it, and a
handler is put on its root logger at that moment (a finder, first in `sys.meta_path`, waits for it).
The loggers get the levels that those of the caller have, so that a record which he would not take
is not even made; they follow with each message. Who configures logging in the worker anew
(`dictConfig`, `basicConfig(force=True)`) takes the handler away, and is left alone.

A record is sent as soon as it is made, ahead of the answer of its call, if it is made by the
thread of the worker in the middle of a call, and if the caller can take it at once: nobody waits
for that. Else it waits in `records`, at most `_MOST` of them, and goes with the next answer. The
oldest are dropped, and counted. What is simple travels as it is; anything else that somebody has
attached to a record is pickled, or turned into text.

Threads: `records` is appended to by any, which a deque allows without a lock. Only the worker's own
thread sends, and no signal is let in while it does: a handler that raises would cut a frame in two.
While a generator runs, its `Producer` has a lock for that; if it is taken, the record waits.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal without its enums: 2 ms
import marshal
import os
import select
import sys
from _collections import deque  # type: ignore[import-not-found]  # as above
from _thread import get_ident

from hybrid_compute import _pickling
from hybrid_compute._failures import short
from hybrid_compute.executors._frames import LOG

TYPE_CHECKING = False  # as typing's, which takes longer to import than all of this
if TYPE_CHECKING:
    from typing import Any

    from hybrid_compute.executors._worker import _Worker

__all__ = ["Logs"]

_MOST = 1000  # records that wait
_LONGEST = 1 << 14  # characters of a text; with some more for the rest, a frame fits the journal
_SIMPLE = (bool, int, float, str, bytes, type(None))
_ALL_SIGNALS = _signal.valid_signals()
# What is text already, or is made into text: the arguments may be anything.
_LEFT_OUT = frozenset(("args", "msg", "message", "exc_info", "exc_text", "stack_info"))


class Logs:
    """The records of one worker.

    Attributes:
        records: those that wait to be sent.
    """

    def __init__(self, worker: _Worker) -> None:
        self.records: Any = deque(maxlen=_MOST)
        self._worker = worker
        self._me = get_ident()
        self._sending = False
        self._dropped = 0
        self._logging: Any = None
        self._handler: Any = None
        self._levels: dict[str, int] = {}  # the caller's, by the loggers' names
        self._set: dict[str, int] = {}  # those of them that our loggers have
        self._poll = select.poll()

    def start(self, sock: Any) -> None:
        """Catch all records from now on, or from the moment when `logging` is loaded."""
        self._poll.register(sock, select.POLLOUT)
        if "logging" in sys.modules:
            self._install(sys.modules["logging"])
        else:
            sys.meta_path.insert(0, self)

    def follow(self, levels: bytes | memoryview) -> None:
        """Take over the caller's levels."""
        self._levels = marshal.loads(levels)  # noqa: S302 - from our caller
        if self._logging is not None:
            self._apply()

    # -- the import of logging ----------------------------------------------------------------

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Find the module `logging`, as the finders behind this one do; no other."""
        if name != "logging":
            return None
        sys.meta_path.remove(self)
        for finder in sys.meta_path:
            spec: Any = finder.find_spec(name, path, target)
            if spec is not None:
                spec.loader = _Loader(spec.loader, self._install)
                return spec
        return None

    def _install(self, logging: Any) -> None:
        logs = self

        class Forward(logging.Handler):  # type: ignore[misc]  # its class is loaded only now
            def emit(self, record: Any) -> None:
                logs.take(record)

        self._logging = logging
        self._handler = Forward()
        logging.root.addHandler(self._handler)
        # A child of the worker has no business in the worker's socket.
        os.register_at_fork(after_in_child=self._leave)
        self._apply()

    def _leave(self) -> None:
        self._logging.root.removeHandler(self._handler)
        self.records.clear()

    def _apply(self) -> None:
        """Give our loggers the levels of the caller's that have changed since the last time."""
        logging, before, now = self._logging, self._set, self._levels
        for name in [*before, *now]:
            level = now.get(name, 0)
            if level == before.get(name):
                continue
            if name == " disable":  # no logger's name: see `_logs.Levels`
                logging.disable(level)
            elif name or level:
                logging.getLogger(name or None).setLevel(level)
        self._set = dict(now)

    # -- records ------------------------------------------------------------------------------

    def take(self, record: Any) -> None:
        """Send a record, or have it wait. Any thread; never raises, never waits."""
        try:
            data = self._encode(record)
        except Exception:
            self._handler.handleError(record)  # as logging does with what cannot be formatted
            return
        records = self.records
        if len(records) == _MOST:
            self._dropped += 1
        records.append(data)
        # A finalizer may log in the middle of `send`, and a signal handler between two calls.
        if get_ident() == self._me and self._worker.is_running() and not self._sending:
            self.send(wait=False)

    def _encode(self, record: Any) -> bytes:
        fields = {"msg": _cut(record.getMessage())}
        if record.exc_info:
            error = self._handler.formatter or self._logging._defaultFormatter
            fields["exc_text"] = _cut(record.exc_text or error.formatException(record.exc_info))
        elif record.exc_text:
            fields["exc_text"] = _cut(record.exc_text)
        if record.stack_info:
            fields["stack_info"] = _cut(record.stack_info)
        more: dict[str, bytes] = {}
        for name, value in record.__dict__.items():
            if name in _LEFT_OUT or type(name) is not str:
                continue
            if type(value) in _SIMPLE:
                fields[name] = _cut(value) if isinstance(value, (str, bytes)) else value
                continue
            try:
                data = _pickling.dumps(value)
            except Exception:
                data = b""
            if 0 < len(data) <= _LONGEST:
                more[name] = data
            else:
                fields[name] = short(value)
        data = marshal.dumps((fields, more))
        if len(data) > 3 * _LONGEST:  # somebody has attached a lot: the text matters
            few = ("msg", "name", "levelno", "levelname", "created", "exc_text", "process")
            data = marshal.dumps(({each: fields.get(each) for each in few}, {}))
        return data

    def send(self, *, wait: bool) -> None:
        """Send what waits.

        Args:
            wait: until the caller takes it, as with an answer; False: only if he does at once.
        """
        worker, producer = self._worker, self._worker.producer
        if not wait and not self._poll.poll(0):
            return
        if producer is not None and not producer.lock.acquire(False):
            return
        self._sending = True
        before = _signal.pthread_sigmask(_signal.SIG_BLOCK, _ALL_SIGNALS)
        try:
            if self._dropped:
                self._tell_dropped()
            records = self.records
            while records:
                worker.answer(LOG, 0, records.popleft())
            if not wait:
                worker.flush()
        except OSError:  # the caller is gone: the next answer will find out
            pass
        finally:
            self._sending = False
            if producer is not None:
                producer.lock.release()
            _signal.pthread_sigmask(_signal.SIG_SETMASK, before)

    def _tell_dropped(self) -> None:
        dropped, self._dropped = self._dropped, 0
        text = f"{dropped} log records of worker process {os.getpid()} were dropped: too many"
        fields = {"name": "hybrid_compute", "levelno": 30, "levelname": "WARNING", "msg": text}
        self._worker.answer(LOG, 0, marshal.dumps((fields, {})))


class _Loader:
    """Loads a module as another loader does, and tells when that is done."""

    def __init__(self, loader: Any, done: Any) -> None:
        self._loader = loader
        self._done = done

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._done(module)


def _cut(text: Any) -> Any:
    return text if len(text) <= _LONGEST else text[:_LONGEST]
