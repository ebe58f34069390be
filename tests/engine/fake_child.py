"""A worker in a child process that does what the variable FAKE_CHILD says."""

from __future__ import annotations

import argparse
import os
import sys
import time

import zmq

from replicator.link import messages as link
from replicator.link.endpoint import WorkerEnd
from replicator.link.lease import LeaseWords
from replicator.model import Position
from replicator.settings import Settings

END_OF_TEST_S = 60.0
MANY = 50_000  # lines, more than a few pipes hold


def serve(end: WorkerEnd, words: LeaseWords, settings: Settings) -> None:
    """Start a tenure, commit all that is submitted; a payload of b"die" is the end."""
    end.send(link.Started(settings.node))
    until = time.monotonic() + END_OF_TEST_S
    while time.monotonic() < until:
        end.socket.poll(100)
        for message, parts in end.receive():
            match message:
                case link.Ready(ready=True):
                    words.slot(1).deadline_ns = 2**62
                    end.send(link.TenureStarted(1, 1))
                case link.Submit() if bytes(parts[0]) == b"die":
                    sys.exit("died as it was told")
                case link.Submit():
                    position = Position(message.epoch, message.sequence)
                    sizes = {name: float(len(part)) for name, part in zip("ab", parts, strict=False)}
                    end.send(link.Committed(message.handle, position, (settings.node,), sizes))
                case link.Resign():
                    end.send(link.TenureEnded(message.epoch, "resigned"))
                case link.AskStatus():
                    report = b'{"pid": %d, "session": %d}' % (os.getpid(), os.getsid(0))
                    end.send(link.StatusReply(message.nonce, report))
                case link.Close():
                    return


def main() -> None:
    """As the real worker's: settings on standard input, the link's address and the lease words by name."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--link")
    parser.add_argument("--lease-fd", type=int)
    parser.add_argument("--engine-pid", type=int)
    options, _ = parser.parse_known_args()
    settings = Settings.from_json(sys.stdin.buffer.readline())
    assert options.engine_pid == os.getppid()
    role = os.environ["FAKE_CHILD"]
    if role == "talk":
        print("a word\n" * MANY, "the last word")
        sys.exit(1)
    if role == "crash":
        sys.exit("no such library: libexample.so")
    if role == "hang":
        time.sleep(END_OF_TEST_S)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    end = WorkerEnd(options.link, context)
    if role == "refuse":
        end.send(link.Failed("StoreInUse", "process 7 has it open"))
    else:
        serve(end, LeaseWords.attach(options.lease_fd), settings)
    end.close()
    context.term()


if __name__ == "__main__":
    main()
