"""Messages that are lost, late, repeated, overtaken, or cut off by a partition; each server's on its own."""

import heapq
from dataclasses import dataclass

import numpy as np

from policies.arrays import Flags
from policies.events import LeaseVector, Sampled


@dataclass(frozen=True, slots=True)
class Weather:
    """How bad a network is."""

    loss: float
    repeat: float
    late: float
    """Share of messages that take far longer than usual."""
    latest_s: float
    usual_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """Servers and controllers that do not reach each other for a while."""

    from_s: float
    to_s: float
    cut: Flags
    """Servers [n]."""
    epoch: int | None
    """Of the controller cut off from them; None: of all."""
    up: bool
    down: bool


def part_of_sample(event: Sampled, keep: list[int], age_s: float) -> Sampled:
    """Some servers' samples out of a message."""
    return Sampled(
        rows=np.asarray(event.rows)[keep],
        incarnation=event.incarnation[keep],
        seq=event.seq[keep],
        age_s=age_s,
        drawn_w=event.drawn_w[keep],
        clock_mhz=event.clock_mhz[keep],
        enforced_w=event.enforced_w[keep],
        epoch=event.epoch[keep],
        lease_seq=event.lease_seq[keep],
    )


def part_of_lease(lease: LeaseVector, rows: "np.ndarray", keep: list[int]) -> LeaseVector:
    """Some servers' leases out of a vector."""
    return LeaseVector(
        rows=rows[keep],
        epoch=lease.epoch,
        seq=lease.seq,
        lease_s=lease.lease_s,
        incarnation=lease.incarnation[keep],
        sample_seq=lease.sample_seq[keep],
        cap_w=lease.cap_w[keep],
        cap_mhz=lease.cap_mhz[keep],
        braking=lease.braking[keep],
    )


class Network:
    """Between the agents and every controller."""

    def __init__(self, weather: Weather, partitions: list[Partition], rng: np.random.Generator) -> None:
        self.weather, self.partitions, self.rng = weather, partitions, rng
        self.calm = False
        self._up: dict[int, list[tuple[float, int, int, Sampled, float]]] = {}
        self._down: list[tuple[float, int, int, int, LeaseVector]] = []
        self._sent = 0

    def delays_s(self) -> list[float]:
        """When copies of a message arrive; none if it is lost."""
        if self.calm:
            return [float(self.rng.choice([0.0, 0.1]))]
        weather, draw = self.weather, self.rng.random(2)
        if draw[0] < weather.loss:
            return []
        copies = 1 + int(draw[1] < weather.repeat)
        return [self._delay_s() for _ in range(copies)]

    def _delay_s(self) -> float:
        if self.rng.random() < self.weather.late:
            return float(self.rng.uniform(0.0, self.weather.latest_s))
        return float(self.rng.exponential(self.weather.usual_s))

    def _cut(self, epoch: int, row: int, now_s: float, *, up: bool) -> bool:
        return not self.calm and any(
            p.from_s <= now_s < p.to_s and p.cut[row] and p.epoch in (None, epoch) and (p.up if up else p.down)
            for p in self.partitions
        )

    def send_samples(self, event: Sampled, epochs: list[int], now_s: float) -> None:
        """Every server's sample on its own way to every controller."""
        for epoch in epochs:
            for k, row in enumerate(np.asarray(event.rows).tolist()):
                if self._cut(epoch, row, now_s, up=True):
                    continue
                for delay_s in self.delays_s():
                    self._sent += 1
                    queue = self._up.setdefault(epoch, [])
                    heapq.heappush(queue, (now_s + delay_s, self._sent, k, event, now_s))

    def send_leases(self, lease: LeaseVector, n: int, now_s: float) -> None:
        """Every server's lease on its own way."""
        rows = np.arange(n)[lease.rows]
        arriving: dict[float, list[int]] = {}
        for k, row in enumerate(rows.tolist()):
            if not self._cut(lease.epoch, row, now_s, up=False):
                for delay_s in self.delays_s():
                    due_s = now_s + delay_s
                    arriving.setdefault(due_s if delay_s > 1.0 else now_s + round(2.0 * delay_s) / 2.0, []).append(k)
        for due_s, keep in arriving.items():
            self._sent += 1
            part = part_of_lease(lease, rows, sorted(set(keep)))
            heapq.heappush(self._down, (due_s, self._sent, 0, 0, part))

    def samples(self, epoch: int, now_s: float, *, ages_known: bool) -> list[Sampled]:
        """What arrives at a controller now, in order of arrival, one message per instant of sending."""
        queue = self._up.get(epoch, [])
        groups: list[tuple[Sampled, float, list[int]]] = []
        while queue and queue[0][0] <= now_s:
            _, _, k, event, sent_s = heapq.heappop(queue)
            if groups and groups[-1][0] is event and k not in groups[-1][2]:
                groups[-1][2].append(k)
            else:
                groups.append((event, sent_s, [k]))
        return [part_of_sample(e, keep, now_s - sent_s if ages_known else 0.0) for e, sent_s, keep in groups]

    def leases(self, now_s: float) -> list[LeaseVector]:
        """What arrives at the agents now."""
        arrived = []
        while self._down and self._down[0][0] <= now_s:
            arrived.append(heapq.heappop(self._down)[-1])
        return arrived

    def forget(self, epoch: int) -> None:
        """A controller is gone, and with it the messages on their way to it."""
        self._up.pop(epoch, None)
