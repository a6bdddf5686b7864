"""A transport over datagrams, an executor and a policy for hybrid_compute, by entry points."""

from hybrid_datagrams.badness import BadNetwork
from hybrid_datagrams.channel import Channel
from hybrid_datagrams.listener import Listener
from hybrid_datagrams.others import NewestFirst, RoundRobin
from hybrid_datagrams.server import DatagramServer
from hybrid_datagrams.transport import DatagramTransport

__all__ = [
    "BadNetwork",
    "Channel",
    "DatagramServer",
    "DatagramTransport",
    "Listener",
    "NewestFirst",
    "RoundRobin",
]
