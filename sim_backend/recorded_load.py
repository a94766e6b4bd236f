"""Servers that do recorded work, not serving: they can only be power-capped, and what a cap costs them is progress.

A recording says what was drawn, second by second, by work that ran at full speed. Replayed under a new policy it is
not the draw that is repeated but the work: a capped GPU draws less and its work goes on more slowly, so that later
peaks come later. That closes the loop; a draw merely clipped at the cap would finish work that nobody had done.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.arrays import Flags, Ints, Vec
from policies.errors import InvariantViolated
from policies.models.gpu_power import clock_factor, clock_ratio_at
from policies.models.latency import slowdown
from sim_backend.profile import Profile

Floats32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """What each recorded source would draw uncapped, one column per source."""

    server_w: Floats32
    """Mean of each second of work [seconds, sources]."""
    together: bool
    """All sources are one job, which is as fast as its slowest server; else each goes on by itself."""
    seed: int = 0
    """Of the offsets at which added servers begin."""


class RecordedLoad:
    """Servers with recorded work, a second at a time; the same surface as the part of the plant that caps act on.

    Server i takes source i modulo the number of sources. The first round is as recorded; each further round (servers
    that were added) is the same work shifted by an offset of its own. A recording that ends begins again.
    """

    def __init__(self, profiles: tuple[Profile, ...], sku: Ints, demand: Demand) -> None:
        """Work at its beginning, without caps.

        Args:
            profiles: the kinds of servers.
            sku: index into `profiles` per server [n].
            demand: the work.
        """
        self.now_s = 0.0
        self._taken_s = 0.0
        self.demand = demand
        seconds, sources = demand.server_w.shape
        servers = len(sku)
        if seconds == 0 or sources == 0:
            raise InvariantViolated("a recording without samples")
        rounds = -(-servers // sources)
        offsets = np.random.default_rng(demand.seed).integers(0, seconds, rounds)
        offsets[0] = 0
        self._source = np.arange(servers) % sources
        self._round = np.arange(servers) // sources
        self._offset_s = offsets[self._round].astype(np.float64)

        def of(name: str) -> Vec:
            return np.array([float(getattr(profile, name)) for profile in profiles])[sku]

        self._gpus, self._idle_w, self._other_w = of("gpus"), of("idle_w"), of("other_w")
        self._floor = of("min_mhz") / of("max_mhz")
        self._static, self._exponent = of("prefill_static_share"), of("prefill_exponent")
        self._share = of("prefill_clock_share")
        self._clock_cap, self._limit_w = np.ones(servers), np.full(servers, np.inf)
        self._done_s = np.zeros(servers)
        self._energy_j = np.zeros(servers)
        self._clock_ratio = np.ones(servers)
        self._busy = np.zeros(servers, dtype=np.bool_)

    @property
    def clock_ratio(self) -> Vec:
        """Clock at which each server works, under its clock cap and power limit [n]."""
        return self._clock_ratio.copy()

    @property
    def busy(self) -> Flags:
        """Servers that drew more than idle in the last second [n]."""
        return self._busy

    @property
    def work_share(self) -> Vec:
        """Work done over the work that would be done uncapped by now [n]."""
        return self._done_s / self.now_s if self.now_s > 0.0 else np.ones(self._done_s.size)

    def set_caps(self, clock_ratio: Vec, limit_w: Vec) -> None:
        """Put clock caps (1: none) and limits per GPU (inf: none) into force now [n]."""
        self._clock_cap = np.clip(np.nan_to_num(clock_ratio, nan=0.0), self._floor, 1.0)
        self._limit_w = np.array(limit_w, dtype=np.float64)

    def advance(self, until_s: float) -> None:
        """Work on up to `until_s`."""
        while self.now_s < until_s:
            # Demand is known by the second of work, so no step goes beyond one.
            self._work(min(1.0, until_s - self.now_s, np.floor(self.now_s + 1.0) - self.now_s))

    def _work(self, step_s: float) -> None:
        work_s = self._done_s + self._offset_s
        row = work_s.astype(np.int64) % len(self.demand.server_w)
        server_w = self.demand.server_w[row, self._source].astype(np.float64)
        gpu_w = np.maximum((server_w - self._other_w) / self._gpus, 0.0)
        busy = gpu_w > self._idle_w
        wanted_w = np.where(busy, gpu_w, 1.0)
        by_limit = clock_ratio_at(np.minimum(self._limit_w / wanted_w, 1.0), self._static, self._exponent)
        ratio = np.where(busy, np.minimum(self._clock_cap, np.maximum(by_limit, self._floor)), self._clock_cap)
        capped_w = np.maximum(self._idle_w, gpu_w * clock_factor(ratio, self._static, self._exponent))
        drawn_w = np.where(busy, capped_w, gpu_w)
        speed = np.where(busy, 1.0 / slowdown(ratio, self._share), 1.0)
        if self.demand.together:
            slowest = np.ones(int(self._round[-1]) + 1)
            np.minimum.at(slowest, self._round, speed)
            speed = slowest[self._round]
        # Below its usual non-GPU watts a server draws what was recorded; caps act on GPUs alone.
        self._energy_j += (server_w - self._gpus * gpu_w + self._gpus * drawn_w) * step_s
        self._done_s += speed * step_s
        self._clock_ratio, self._busy = ratio, busy
        self.now_s += step_s

    def take_mean_w(self) -> Vec:
        """Mean watts of each server since the last take [n]."""
        if self.now_s <= self._taken_s:
            raise InvariantViolated(f"no time has passed since the last take at {self._taken_s} s")
        mean_w = self._energy_j / (self.now_s - self._taken_s)
        self._energy_j = np.zeros(mean_w.size)
        self._taken_s = self.now_s
        return mean_w
