"""Outbox: what waits to be sent, and when it makes a frame.

Owns the queue of written messages of one session, and the count of frames under way. Both roles
have one. Knows no ids and no meaning. Its session's owner guards it.

To a peer that is not ours, each message is a frame, at once. To one of ours, WINDOW frames are
under way, and all that queues up meanwhile goes into the next one: a frame costs a WebSocket
library tens of microseconds whatever it holds. A peer tells which frames have come (`ack`), not
which calls are done, so slow calls hold nothing up. A long way would, as it delays acks as well;
but who sends a frame now and then has none to save. So PACE after the last frame another may go,
ack or no ack. On a short way the acks come sooner than that::

    sent - acked < WINDOW  and something queued  ->  a frame: [ack if there is one to give] + all
    the last frame went PACE ago                 ->  one such frame, ack or no ack, as long as
                                                     those under way are few (MOST) and small
    WINDOW frames came without an ack for them   ->  a frame that is an ack alone: not counted

The owner has the clock: it says what time it is (`now`), and asks again at `opens_at`. Large frames
wait for acks as they always did, so that a slow link has no more of them in its way than before.

Why that cannot hang: a sender waits only with WINDOW frames under way, and whoever has got
WINDOW frames since its last ack sends one, without regard to its own window; but a client to whom
no call is owed an answer lets it go with the next call, since the server has nothing to send until
then. That a frame may go without an ack takes nothing from this: nobody relies on it, not even on
being asked again. Only a lost frame could stop it, and a transport that loses one has lost the
connection. One call at a time needs no frame that is an ack alone, ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from math import inf

from hybrid_compute.protocol.codec import MAX_BYTES, Codec
from hybrid_compute.protocol.messages import Hello
from hybrid_compute.protocol.writer import Writer

__all__ = ["MAX_BATCH", "MOST", "PACE", "SPARE", "WINDOW", "Outbox"]

WINDOW = 2  # frames under way that need no excuse
PACE = 0.02  # seconds; many times what a frame and its ack take on a short way
MOST = 256  # frames under way, whatever the way
SPARE = 64  # bytes for the brackets, commas and ack around a message of the largest size
MAX_BATCH = 4096  # messages in a frame
_BATCH_BYTES = 2**18  # a frame is closed when it has these; the socket need not wait for more


class Outbox:
    """Messages on their way into frames."""

    __slots__ = (
        *("_acked", "_bytes", "_came", "_held", "_keys", "_last", "_messages", "_ready", "_sent"),
        *("_told", "_urgent", "backlog", "greeted", "peer_bytes", "under_way", "writer"),
    )

    def __init__(self, writer: Writer) -> None:
        self.writer: Writer = writer
        self.backlog: int = 0  # bytes of all that waits
        self.greeted: bool = False  # hello is on its way or there: from then on frames are counted
        self.peer_bytes = MAX_BYTES
        # The queue: messages by key, and the keys in their order, some of which may be gone. (To
        # take the first of a dict again and again takes quadratic time.)
        self._messages: dict[int, bytes] = {}
        self._keys: deque[int] = deque()
        self._urgent: list[bytes] = []  # messages that no limit holds up, and that come first
        self._ready: list[bytes] = []  # frames that were written for a peer not yet known as ours
        self._sent = self._acked = self._came = self._told = 0
        # Of each frame without an ack: its messages of the queue, and its bytes; and their sums.
        self._held: deque[tuple[int, int]] = deque()
        self.under_way: int = 0
        self._bytes = 0
        self._last = 0.0  # when the last frame was taken, by the owner's clock

    def greet(self, codec: Codec, hello: Hello) -> None:
        """Say hello, and write for a peer of ours from then on."""
        self._ready += self._single(None)
        self.backlog = sum(map(len, self._ready))
        self.writer = Writer(codec)
        self.greeted = True
        self.put_urgent(self.writer.hello(hello))

    def put(self, key: int, message: bytes) -> None:
        """Queue a message under a key of its own."""
        self._messages[key] = message
        self._keys.append(key)
        self.backlog += len(message)

    def put_all(self, keys: Sequence[int], messages: Sequence[bytes]) -> None:
        """Queue messages, each under its key."""
        self._messages.update(zip(keys, messages, strict=True))
        self._keys.extend(keys)
        self.backlog += sum(map(len, messages))

    def put_urgent(self, message: bytes) -> None:
        """Queue a message before all others; no limit of `frames` counts it."""
        self._urgent.append(message)
        self.backlog += len(message)

    def drop(self, key: int) -> bool:
        """Take a message out of the queue. False if it has gone."""
        message = self._messages.pop(key, None)
        if message is None:
            return False
        self.backlog -= len(message)
        if len(self._keys) > 2 * len(self._messages) + 64:
            self._keys = deque(self._messages)
        return True

    def first(self) -> int | None:
        """Return the key of the first message of the queue."""
        keys, messages = self._keys, self._messages
        while keys and keys[0] not in messages:
            keys.popleft()
        return keys[0] if keys else None

    def last(self) -> int:
        """Return the key of the last message of the queue; 0: there is none."""
        return next(reversed(self._messages), 0)

    def __contains__(self, key: int) -> bool:
        return key in self._messages

    def __len__(self) -> int:
        return len(self._messages)

    def has_to_send(self, *, idle: bool = False) -> bool:
        """Tell whether `frames` may return one, if it is given room."""
        return bool(
            self._messages
            or self._urgent
            or self._ready
            or (self._came - self._told >= WINDOW and not idle)
        )

    def is_full(self, now: float = 0.0) -> bool:
        """Tell whether what is queued now waits: for an ack, or for a time (`opens_at`).

        Args:
            now: monotonic seconds; who has no clock leaves it out, and waits for acks alone.
        """
        return self.greeted and self._sent - self._acked >= WINDOW and now < self._opens()

    def opens_at(self, now: float) -> float | None:
        """Return the monotonic time from which a frame may go, if no ack comes before it.

        None: one may go now, or none without an ack.
        """
        if not self.is_full(now):
            return None
        opens = self._opens()
        return None if opens == inf else opens

    def _opens(self) -> float:
        if self._bytes >= _BATCH_BYTES or self._sent - self._acked >= MOST:
            return inf
        return self._last + PACE

    def came(self, frames: int) -> None:
        """Count frames from a peer of ours; -1 takes one back that was an ack alone."""
        self._came += frames

    def acked(self, frames: int) -> int:
        """Note that the peer has got so many frames in all.

        Returns:
            How many messages of the queue were in those that it had not told of before.
        """
        messages = 0
        # A count that is too high, or goes back, is nonsense: nothing depends on it but pace.
        while self._acked < min(frames, self._sent):
            self._acked += 1
            held, size = self._held.popleft()
            messages += held
            self._bytes -= size
        self.under_way -= messages
        return messages

    def frames(
        self,
        limit: int | None = None,
        share: int = MAX_BATCH,
        *,
        most: int = _BATCH_BYTES,
        idle: bool = False,
        now: float = 0.0,
    ) -> list[bytes]:
        """Return the frames to send now.

        Args:
            limit: take no more than so many messages of the queue; None: all.
            share: take no more than so many into one frame.
            most: bytes with which a frame is closed, unless one message has more.
            idle: the peer has nothing to send that would have to wait for an ack.
            now: as for `is_full`.
        """
        messages = self._messages
        frames: list[bytes] = []
        if messages or self._urgent or self._ready:
            frames, self._ready = self._ready, []
            if frames:
                self.backlog -= sum(map(len, frames))
            if not self.greeted:
                return frames + self._single(limit)
            # (As `is_full`, but that it costs a call only where it waits.)
            while (self._urgent or (messages and (limit is None or limit > 0))) and (
                self._sent - self._acked < WINDOW or now >= self._opens()
            ):
                waiting = len(messages)
                frame = self._frame(limit, share, most)
                frames.append(frame)
                held = waiting - len(messages)
                self._held.append((held, len(frame)))
                self.under_way += held
                self._bytes += len(frame)
                self._last = now
                if limit is not None:
                    limit -= held
        if self._came - self._told >= WINDOW and not idle:
            frames.append(self._ack())
        return frames

    def _frame(self, limit: int | None, share: int, most: int) -> bytes:
        """Take one frame of messages."""
        parts, self._urgent = self._urgent[: MAX_BATCH // 2], self._urgent[MAX_BATCH // 2 :]
        size = sum(map(len, parts))
        most = min(self.peer_bytes - SPARE, most)
        room = min(share, MAX_BATCH - 1 - len(parts))  # one is for the ack
        if limit is not None and limit < room:
            room = limit
        if self.backlog <= most and len(self._messages) <= room:
            parts += self._messages.values()
            self._messages.clear()
            self._keys.clear()
            self.backlog = sum(map(len, self._urgent))
        else:
            self.backlog -= size
            parts.extend(self._taken(room, most, size))
        self._sent += 1
        # An ack costs little in a batch, and would make one of a lone message.
        owed = self._came - self._told
        if owed >= WINDOW or (owed and len(parts) > 1):
            parts.insert(0, self._ack())
        return parts[0] if len(parts) == 1 else self.writer.codec.array(parts)

    def _single(self, limit: int | None) -> list[bytes]:
        """Take messages as frames of their own."""
        frames, self._urgent = self._urgent, []
        self.backlog -= sum(map(len, frames))
        frames.extend(self._taken(len(self._messages) if limit is None else limit))
        return frames

    def _taken(self, count: int, most: int | None = None, size: int = 0) -> Iterator[bytes]:
        """Take the first messages, up to a count and a sum of bytes, but one if there is none."""
        messages, keys = self._messages, self._keys
        if (most is None or self.backlog <= most - size) and len(keys) == len(messages):
            for key in [keys.popleft() for _ in range(min(count, len(keys)))]:
                self.backlog -= len(messages[key])
                yield messages.pop(key)
            return
        while count > 0 and messages:
            message = messages.get(keys[0])
            if message is not None:
                if most is not None and size and size + len(message) > most:
                    return
                size += len(message) + 1
                count -= 1
                self.backlog -= len(message)
                del messages[keys[0]]
            keys.popleft()
            if message is not None:
                yield message

    def _ack(self) -> bytes:
        self._told = self._came
        return self.writer.ack(self._came)
