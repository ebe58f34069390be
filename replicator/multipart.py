"""Whole messages over a ZeroMQ socket, in the fewest steps; none of them waits.

pyzmq's own calls for messages of several frames combine flags that are members of enumerations and look up
an option for every frame, and its poll of one socket builds a poller: for a small message that is several
times the work of handing it over. Here the flags are numbers, combined once.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered

import zmq

from replicator.model import Buffer

_EVENTS, _IN, _OUT = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.POLLOUT)
_LAST = int(zmq.DONTWAIT)
_MORE = _LAST | int(zmq.SNDMORE)

_Socket = zmq.Socket[bytes]


def is_readable(socket: _Socket) -> bool:
    """Whether a whole message is there: to ask is cheaper than the exception."""
    return int(socket.getsockopt(_EVENTS)) & _IN != 0


def is_writable(socket: _Socket) -> bool:
    """Whether a message would be queued now."""
    return int(socket.getsockopt(_EVENTS)) & _OUT != 0


def send(socket: _Socket, frames: Ordered[zmq.Frame | Buffer], *, copy: bool) -> bool:
    """Queue all frames as one message; false, and nothing is, if there is nobody or the queue is full."""
    last = len(frames) - 1
    try:
        for index, frame in enumerate(frames):
            socket.send(frame, _LAST if index == last else _MORE, copy=copy)
    except zmq.Again:  # of the first frame: the others go where that went
        return False
    return True


def receive(socket: _Socket) -> list[zmq.Frame]:
    """The frames of the next message; raises `zmq.Again` if there is none."""
    frame = socket.recv(_LAST, copy=False)
    frames = [frame]
    while frame.more:
        frame = socket.recv(_LAST, copy=False)
        frames.append(frame)
    return frames
