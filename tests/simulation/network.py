"""The control mesh between simulated nodes: it loses, repeats, reorders, delays, replays and cuts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

from msgspec import Struct

from replicator.model import NodeId

KEPT_FRAMES_MAX = 64


class Weather(Struct, frozen=True):
    """How bad the network is at present; chances from 0 to 1, delays in seconds."""

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    replay: float = 0.0
    garbage: float = 0.0
    delay_min_s: float = 0.0002
    delay_mean_s: float = 0.001
    publication_loss: float = 0.0


CALM = Weather()


class Network:
    """Links between every two nodes, each direction on its own. *deliver* takes (from, to, frame)."""

    def __init__(
        self,
        random: Random,
        schedule: Callable[..., None],
        deliver: Callable[[NodeId, NodeId, bytes], None],
    ) -> None:
        self._random = random
        self._schedule = schedule
        self._deliver = deliver
        self._now: Callable[[], float] = lambda: 0.0
        self.weather = CALM
        self.cuts: dict[tuple[NodeId, NodeId], int] = {}
        self.deaf: set[tuple[NodeId, ...]] = set()  # directions in which publications are lost
        self.counts: Counter[str] = Counter()  # what has happened to single frames
        self.lags: dict[tuple[NodeId, NodeId], float] = {}  # seconds that a direction takes more
        self._last_arrival: dict[tuple[NodeId, NodeId], float] = {}
        self._kept: list[tuple[NodeId, NodeId, bytes]] = []

    def watch(self, now: Callable[[], float]) -> None:
        """Take the true time from *now*."""
        self._now = now

    def cut(self, links: list[tuple[NodeId, NodeId]]) -> None:
        """Cut these directions; cuts of several faults add up."""
        for link in links:
            self.cuts[link] = self.cuts.get(link, 0) + 1

    def mend(self, links: list[tuple[NodeId, NodeId]]) -> None:
        """Take back one `cut` of these directions."""
        for link in links:
            if self.cuts.get(link, 0) > 1:
                self.cuts[link] -= 1
            else:
                self.cuts.pop(link, None)

    def heal(self) -> None:
        """Mend everything."""
        self.cuts.clear()
        self.lags.clear()
        self.deaf.clear()
        self.weather = CALM
        self._kept.clear()

    def connected(self, left: NodeId, right: NodeId) -> bool:
        """Whether both directions between the two work."""
        return (left, right) not in self.cuts and (right, left) not in self.cuts

    def loses_publication(self, source: NodeId, to: NodeId) -> bool:
        """Whether a frame published now is lost on this way."""
        loss = self.weather.publication_loss
        lost = (source, to) in self.deaf or (loss > 0 and self._random.random() < loss)
        self.counts["publications lost"] += lost
        return lost

    def delay(self) -> float:
        """One draw of the present delay."""
        weather = self.weather
        return weather.delay_min_s + self._random.expovariate(1.0) * weather.delay_mean_s

    def send(self, source: NodeId, to: NodeId, frame: bytes) -> None:
        """Send a control frame; it may be lost, or come twice, late or out of order."""
        random, weather = self._random, self.weather
        if self.cuts and (source, to) in self.cuts:
            self.counts["cut off"] += 1
            return
        if weather is CALM:
            self._arrive_later(source, to, frame, ordered=True)
            return
        if random.random() < weather.loss:
            self.counts["lost"] += 1
            return
        if random.random() < weather.garbage:
            frame = frame[: random.randrange(len(frame))]
            self.counts["cut short"] += 1
        copies = 2 if random.random() < weather.duplicate else 1
        self.counts["doubled"] += copies - 1
        for _ in range(copies):
            ordered = random.random() >= weather.reorder
            self.counts["out of order"] += not ordered
            self._arrive_later(source, to, frame, ordered=ordered)
        self._keep_or_replay(source, to, frame)

    def _arrive_later(self, source: NodeId, to: NodeId, frame: bytes, *, ordered: bool) -> None:
        now, link = self._now(), (source, to)
        arrival = now + self.delay()
        if self.lags:
            arrival += self.lags.get(link, 0.0)
        if ordered:
            earliest = self._last_arrival.get(link, 0.0) + 1e-6
            if arrival < earliest:
                arrival = earliest
            self._last_arrival[link] = arrival
        self._schedule(arrival - now, self._arrive, source, to, frame)

    def _arrive(self, source: NodeId, to: NodeId, frame: bytes) -> None:
        if (source, to) not in self.cuts:
            self._deliver(source, to, frame)

    def _keep_or_replay(self, source: NodeId, to: NodeId, frame: bytes) -> None:
        random = self._random
        if random.random() < self.weather.replay and self._kept:
            old = random.choice(self._kept)
            self.counts["replayed"] += 1
            self._arrive_later(*old, ordered=False)
        if len(self._kept) < KEPT_FRAMES_MAX:
            self._kept.append((source, to, frame))
        elif random.random() < 0.1:
            self._kept[random.randrange(KEPT_FRAMES_MAX)] = (source, to, frame)
