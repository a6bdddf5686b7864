"""The wire protocol, without the wire: values, messages and sessions as pure logic.

Bytes go in and bytes come out. There are no threads, locks, sockets, clocks or sleeps in here;
whoever owns a connection owns one session of it and asks it in turn, under one lock::

    executors/remote                                            server
    ClientSession                                        ServerSession
      .call(...)             -> id                         .receive(frame) -> [Request | ...]
      .frames_to_send()      -> frames  ==============>
      .receive(frame)        -> events  <==============    .frames_to_send() -> frames
      .cancel(id), .consumed(id, ...)                      .result .fail .item .done
                                                           .next_calls() -> [Request]
      .lost(reason)          -> calls without an answer    .lost() -> calls to cancel

    values, tags    what JSON cannot carry, refused or tagged
    codec           values <-> bytes, with msgspec or without
    messages        the forms of messages, and reading them;  writer: writing them
    credit          how far a stream may go ahead
    ahead           calls that the server keeps until it has a place for them
    outbox          from messages to frames: coalescing
    client, server  the sessions;  outcomes: what the first tells
    http            the same calls as bodies of POST /compute, and what a status means

Two kinds of peers. Anybody's, such as those of the JavaScript library, get one message a frame,
one argument a call, plain JSON, and no key they do not know; what that cannot carry is refused.
Ours say hello (`JSON_SUBPROTOCOL` tells how they meet): whoever has sent hello writes tags,
arrays of messages and acks from then on, and whoever has received it reads them, so there is no
message of which it could be unclear how it is meant. The binary sub-protocol is agreed upon in
the handshake and has hello for its limits only.

Who owns ids. The client session gives them out: integers that only grow, also from one
connection to the next (`first_id`), never used twice. So an answer that comes late, twice, or after
a reconnect, is to an id that nobody waits for. The server session echoes them, of any type that
its client likes, and refuses one that is in use.

States of a call::

    client                                            server
    queued --frame--> sent --answer--> ended   kept-> running --result|fail|done--> answered
      |                |  `-items-> streaming --.       |  `-item-> streaming --.
      | cancel: gone,  | cancel: gone, told     |       | cancel: dropped       |
      | never sent     | lost: may have run     |       | lost: dropped         |
      | lost: not run  `------------------------'       `-----------------------'

A stream has credit: totals of items and bytes since its start that the consumer has room for,
so that a total which comes twice or late does no harm. The producer may send while it is below
both (`credit`).

Why nothing can hang. No method waits for anything. A call ends by whatever the other side says
of it, however wrong: half an answer is an error of that call, an answer to nobody is counted. If
the other side says nothing, the owner's deadline ends it (`cancel`), or the end of the connection
(`lost`), which the owner's pings bring about. Frames: see `outbox`. Credit: a consumer that has
taken half its window tells so, whatever else is on its way; a producer that waits has sent all
it has. A deadline travels as the seconds that were left; no clock is compared with another.
"""

from __future__ import annotations

from hybrid_compute.protocol.client import ClientSession
from hybrid_compute.protocol.codec import Codec
from hybrid_compute.protocol.server import ServerSession

__all__ = ["BINARY_SUBPROTOCOL", "JSON_SUBPROTOCOL", "ClientSession", "Codec", "ServerSession"]

# Names for Sec-WebSocket-Protocol. A client of ours offers JSON_SUBPROTOCOL, and before it
# BINARY_SUBPROTOCOL if it has msgspec; a server of ours accepts the first that it can. JavaScript's
# `ws` accepts any name without knowing it, so of a server, only hello (or the header
# `http.HEADER` in its answer to the handshake) proves that it is ours. A server that gets an offer
# knows that the client is.
JSON_SUBPROTOCOL = "hybrid-compute.v1.json"
BINARY_SUBPROTOCOL = "hybrid-compute.v1.msgpack"
