"""The numeric addresses of hosts, each name looked up where nobody waits for the answer.

libzmq would look a name up at every attempt to connect, on the thread that moves the messages of all peers:
one name that no server answers for would silence them all, as when a node is down and its network with it.
So libzmq is given numbers only. A look-up runs on a thread of its own, which ends with the answer, however
long that takes; until then the last address holds.
"""

from __future__ import annotations

import logging
import socket as network
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from errno import EINVAL

from replicator.adapters.loglimit import LogLimit

log = logging.getLogger(__name__)

FIRST_ANSWERS_S = 1.0


def resolve(host: str, flags: int = 0) -> str:
    """The numeric address of a host, of IPv4 if it has one; waits for the answer. Raises OSError."""
    try:
        found = network.getaddrinfo(host, None, type=network.SOCK_STREAM, flags=flags)
    except UnicodeError:  # of a name with an empty or a long piece
        raise OSError(EINVAL, "no such name can be") from None
    return min((family != network.AF_INET, str(address[0])) for family, *_, address in found)[1]


class Names:
    """By host, the address that it had when it was looked up last; '' as long as there is no answer.

    Any thread. The first answers are waited for, `FIRST_ANSWERS_S` for all together.
    """

    def __init__(self, hosts: Collection[str]) -> None:
        self._addresses: dict[str, str] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._log_limit = LogLimit()
        for host in hosts:
            with suppress(OSError):
                self._addresses[host] = resolve(host, network.AI_NUMERICHOST)
        self._numeric = frozenset(self._addresses)
        deadline = time.monotonic() + FIRST_ANSWERS_S
        for host in hosts:
            self.look_up(host)
        for thread in self._threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))

    def address(self, host: str) -> str:
        """What is known now."""
        return self._addresses.get(host, "")

    def look_up(self, host: str) -> None:
        """Begin to look a name up, unless that is under way or the host is a number."""
        if host in self._numeric or (host in self._threads and self._threads[host].is_alive()):
            return
        thread = threading.Thread(target=self._look_up, args=(host,), name="replicator-names", daemon=True)
        with suppress(RuntimeError):  # there is no room for a thread now
            thread.start()
            self._threads[host] = thread

    def _look_up(self, host: str) -> None:
        try:
            self._addresses[host] = resolve(host)
        except OSError as error:
            if self._log_limit.permits(time.monotonic(), host):
                log.warning("no address found host=%s reason=%r", host, error.strerror)
