"""Ahead: calls that are sent before the server has a place for them.

Owns both ends of the rule. A server of ours runs `in_flight` calls of one connection, and tells in
its hello how many more (`ahead`) it will keep until there is a place. Where calls take
microseconds, a frame costs more than what is in it, so the larger frames that this allows are
worth much; where they take longer, it would only take calls away from the client, which can still
cancel what it has not sent and knows of it that it has not run. So:

- only calls go ahead that are small and have nothing but arguments: no time of theirs runs out
  meanwhile (`may_go`);
- only to a server that answers calls as soon as it reads them (`Reach`);
- in frames that are small (`FRAME_BYTES`), since the server decodes a frame as a whole;
- and the server declines what it has no room for (`Kept`), as it does without `ahead`.

Threads: none, and no lock: the session's owner guards it.
"""

from __future__ import annotations

from hybrid_compute.protocol.messages import Id, Request
from hybrid_compute.protocol.signing import SIGNED_TASK

__all__ = ["FRAME_BYTES", "SMALL_BYTES", "Kept", "Reach", "may_go"]

SMALL_BYTES = 1024  # of a call that may go ahead
FRAME_BYTES = 2**16  # of a frame of such calls, and so of each call that is kept
_GROWTH = 4


def may_go(request: Request) -> bool:
    """Say whether a call has nothing that the wait for a place would matter to."""
    return (
        request.timeout is None
        and request.credit is None
        and request.key is None
        and request.task != SIGNED_TASK  # a signature is good for a minute
    )


class Reach:
    """How many calls a client may have sent without an answer.

    It grows with frames that come back answered: to four times what the last one held, so that
    two such frames may be under way and a third is on its way back. A frame that is acknowledged
    with most of its calls unanswered takes it back to what the server runs.
    """

    __slots__ = ("_ahead", "_least", "calls")

    def __init__(self, in_flight: int, ahead: int) -> None:
        self._least = in_flight
        self._ahead = ahead
        self.calls: int = in_flight

    def acked(self, calls: int, owed: int) -> None:
        """Note that frames of so many calls have come, and how many such calls lack an answer."""
        if 2 * owed > calls:
            self.calls = self._least
        elif _GROWTH * calls > self.calls:
            self.calls = min(self._least + self._ahead, _GROWTH * calls)


class Kept:
    """The calls of one connection that wait for a place at the server, in their order."""

    __slots__ = ("_calls", "_most")

    def __init__(self, most: int) -> None:
        self._most = most
        self._calls: dict[Id, Request] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def __contains__(self, identity: Id) -> bool:
        return identity in self._calls

    def keep(self, request: Request, frame_bytes: int) -> bool:
        """Keep a call, whose id is none of theirs, until there is a place. False: it may not be.

        Args:
            request: the call.
            frame_bytes: of the frame that brought it.
        """
        if len(self._calls) >= self._most or frame_bytes > FRAME_BYTES or not may_go(request):
            return False
        self._calls[request.id] = request
        return True

    def take(self, count: int) -> list[Request]:
        """Take out the first calls, up to a count."""
        return [self._calls.pop(each) for each in list(self._calls)[:count]]

    def drop(self, identity: Id) -> bool:
        """Take out a call. False if it is none of theirs."""
        return self._calls.pop(identity, None) is not None

    def clear(self) -> None:
        """Forget all of them."""
        self._calls.clear()
