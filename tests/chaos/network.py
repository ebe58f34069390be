"""A network of the run's own: each node in a network namespace, joined by a router that can cut and spoil.

The run itself lives in a network, mount and process namespace (`enter`), where it is the router; when it
ends, however it ends, the kernel takes all of it away: namespaces, mounts and processes. Every packet between
two nodes passes the router, which drops silently, as a real network would, and in one direction if told to.
Where namespaces are not allowed nodes run on loopback, and nothing can be cut.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from replicator.signals import ending_signals

INSIDE = "CHAOS_INSIDE"  # set for a run that lives in namespaces of its own: the signals that end it
UNSHARE = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
PORT = 7400
ON_S, OFF_S = (0.02, 0.25), (0.01, 0.08)  # how long a flapping link works, and does not

Cut = tuple[str, str]  # from, to


def _unshare() -> tuple[str, ...]:
    return UNSHARE if os.geteuid() == 0 else (*UNSHARE, "--map-root-user")


def missing() -> str:
    """Why there can be no namespaces here; '' if there can."""
    for tool in ("unshare", "nsenter", "ip", "tc", "mount"):
        if shutil.which(tool) is None:
            return f"there is no {tool}"
    probe = (
        "ip link add probe type veth && ip rule add pref 9 to 10.77.0.9 blackhole && mount -t tmpfs t /mnt"
    )
    done = subprocess.run([*_unshare(), "sh", "-c", probe], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["not allowed"])[-1]


def enter(module: str, arguments: Sequence[str]) -> None:
    """Run *module* anew in namespaces of its own, in the place of this process."""
    os.environ[INSIDE] = " ".join(each.name for each in ending_signals())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # or unshare would end first, and have all killed at once
    command = [*_unshare(), sys.executable, "-m", module, *arguments]
    os.execvp(command[0], command)


def inherited_signals() -> Iterable[signal.Signals]:
    """Those that end the run, as they were outside."""
    if INSIDE not in os.environ:
        return ending_signals()
    return [signal.Signals[name] for name in os.environ[INSIDE].split()]


def run(*command: str, check: bool = True) -> bool:
    """Run a command that says nothing; whether it succeeded."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, f"{' '.join(command)}: {done.stderr}"
    return done.returncode == 0


class Network:
    """The links of these nodes. Use it in a run that lives in namespaces of its own."""

    def __init__(self, names: Sequence[str], seed: int) -> None:
        self._index = {name: index + 1 for index, name in enumerate(names)}
        self._holders: dict[str, subprocess.Popen[bytes]] = {}
        self._random = random.Random(seed)
        self._cuts: dict[Cut, int] = {}  # how many faults cut it
        self._lock = threading.Lock()
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        run("ip", "link", "set", "lo", "up")
        self.has_netem = run("tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "0ms", check=False)
        run("tc", "qdisc", "del", "dev", "lo", "root", check=False)
        for name in names:
            self._join(name)

    def _join(self, name: str) -> None:
        index = self._index[name]
        holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo ready; exec sleep infinity"], stdout=subprocess.PIPE
        )
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        self._holders[name] = holder
        here = f"10.77.{index}.1"
        run(
            "ip", "link", "add", f"v{index}", "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid)
        )
        run("ip", "address", "add", f"{here}/24", "dev", f"v{index}")
        run("ip", "link", "set", f"v{index}", "up")
        setup = f"ip link set lo up; ip link set eth0 up; ip route add default via {here}"
        there = f"ip address add 10.77.{index}.2/24 dev eth0"
        run(*self.prefix(name), "sh", "-ec", f"{there}; {setup}")

    def address(self, name: str) -> str:
        """Where the node is reached."""
        return f"10.77.{self._index[name]}.2:{PORT}"

    def prefix(self, name: str) -> tuple[str, ...]:
        """What to put before a command that is to run at the node."""
        return ("nsenter", "--target", str(self._holders[name].pid), "--net", "--")

    def close(self) -> None:
        """Let the nodes' namespaces go, and their links at once: the kernel takes its time for these."""
        for name, holder in self._holders.items():
            run("ip", "link", "delete", f"v{self._index[name]}", check=False)
            holder.kill()
            holder.wait()
            assert holder.stdout is not None
            holder.stdout.close()

    # ── faults ──

    def cut(self, *cuts: Cut) -> None:
        """Drop every packet from one node to another; `mend` as often to undo it."""
        with self._lock:
            for cut in cuts:
                self._cuts[cut] = self._cuts.get(cut, 0) + 1
                if self._cuts[cut] == 1:
                    self._rule("add", cut)

    def mend(self, *cuts: Cut) -> None:
        """Undo `cut`."""
        with self._lock:
            for cut in cuts:
                self._cuts[cut] -= 1
                if not self._cuts[cut]:
                    self._rule("del", cut)

    def _rule(self, verb: str, cut: Cut) -> None:
        source, target = self._index[cut[0]], self._index[cut[1]]
        rule = ("pref", str(100 * source + target), "iif", f"v{source}", "to", f"10.77.{target}.2/32")
        run("ip", "rule", verb, *rule, "blackhole")

    def thin(self, name: str, rate_mbit: int, delay_ms: int, loss_percent: int) -> str:
        """Spoil what goes to the node and comes from it; what it has become, in words.

        With netem packets are delayed and lost. Without, the link is so thin that they queue (which delays)
        and overflow (which loses).
        """
        how: tuple[str, ...] = (
            "netem",
            "delay",
            f"{delay_ms}ms",
            f"{delay_ms // 2}ms",
            "loss",
            f"{loss_percent}%",
        )
        words = f"{loss_percent} % lost, {delay_ms} ms late"
        if not self.has_netem:
            how = ("tbf", "rate", f"{rate_mbit}mbit", "burst", "4kb", "latency", f"{delay_ms}ms")
            words = f"{rate_mbit} Mbit/s, queue of {delay_ms} ms"
        run("tc", "qdisc", "add", "dev", f"v{self._index[name]}", "root", *how)
        run(*self.prefix(name), "tc", "qdisc", "add", "dev", "eth0", "root", *how)
        return words

    def widen(self, name: str) -> None:
        """Undo `thin`."""
        run("tc", "qdisc", "del", "dev", f"v{self._index[name]}", "root")
        run(*self.prefix(name), "tc", "qdisc", "del", "dev", "eth0", "root")

    def flap(self, cuts: Sequence[Cut]) -> Flapping:
        """Cut and mend these again and again, at random, until the flapping is ended: bursts of loss."""
        return Flapping(self, cuts, random.Random(self._random.random()))


class Flapping(threading.Thread):
    """Links that work and do not, many times a second."""

    def __init__(self, network: Network, cuts: Sequence[Cut], moments: random.Random) -> None:
        super().__init__(name="flapping", daemon=True)
        self._network, self._cuts, self._moments = network, cuts, moments
        self._done = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._done.wait(self._moments.uniform(*ON_S)):
            self._network.cut(*self._cuts)
            self._done.wait(self._moments.uniform(*OFF_S))
            self._network.mend(*self._cuts)

    def end(self) -> None:
        """Leave the links whole."""
        self._done.set()
        self.join()
