"""How commands reach the plant: late, and on one path sometimes not at all."""

import heapq
import itertools

import numpy as np

from policies.agent_core import AgentConfig
from policies.arrays import Ints, Rows, Vec
from sim_backend.site import Actuation


class Actuators:
    """Caps now in force on the plant's GPUs, and those on their way.

    A delay line keeps order: of two commands to one server the later sent arrives later.
    """

    def __init__(self, actuation: Actuation, config: AgentConfig, rng: np.random.Generator) -> None:
        """Start with everything uncapped.

        Args:
            actuation: delays and losses of the path.
            config: facts of the servers, to turn caps into limits.
            rng: decides which commands are lost.
        """
        n = config.max_mhz.size
        self.actuation, self.config, self._rng = actuation, config, rng
        self.index = np.arange(n)
        self.cap_mhz = config.max_mhz.copy()
        self.gpu_limit_w = np.full(n, np.inf)
        self.brake_mhz = np.full(n, np.inf)
        self.sent = self.failed = self.reissued = 0
        self._order = itertools.count()
        self._line: list[tuple[float, int, Ints, Vec, Vec, Vec]] = []

    def send_caps(self, rows: Rows, cap_mhz: Vec, gpu_limit_w: Vec, now_s: float, *, reissued: bool) -> None:
        """Put caps on the path; each server's command is lost by itself."""
        index = self.index[rows]
        self.sent += index.size
        self.reissued += index.size if reissued else 0
        if self.actuation.failure_probability > 0.0:
            arrives = self._rng.random(index.size) >= self.actuation.failure_probability
            self.failed += int(index.size - arrives.sum())
            index, cap_mhz, gpu_limit_w = index[arrives], cap_mhz[arrives], gpu_limit_w[arrives]
        self._push(now_s + self.actuation.latency_s, index, cap_mhz, gpu_limit_w, np.full(index.size, np.nan))

    def send_brake(self, rows: Ints, brake_mhz: float, now_s: float) -> None:
        """Put the brake (or inf, its release) on its own path, which is taken as reliable."""
        unset = np.full(rows.size, np.nan)
        self._push(now_s + self.actuation.brake_latency_s, rows, unset, unset, np.full(rows.size, brake_mhz))

    def _push(self, due_s: float, rows: Ints, cap_mhz: Vec, gpu_limit_w: Vec, brake_mhz: Vec) -> None:
        heapq.heappush(self._line, (due_s, next(self._order), rows, cap_mhz, gpu_limit_w, brake_mhz))

    @property
    def next_due_s(self) -> float:
        """When the next command arrives; inf with none on the way."""
        return self._line[0][0] if self._line else np.inf

    def arrive(self) -> None:
        """Let the next command take effect. NaN leaves a quantity as it is."""
        _, _, rows, cap_mhz, gpu_limit_w, brake_mhz = heapq.heappop(self._line)
        self.cap_mhz[rows] = np.where(np.isnan(cap_mhz), self.cap_mhz[rows], cap_mhz)
        self.gpu_limit_w[rows] = np.where(np.isnan(gpu_limit_w), self.gpu_limit_w[rows], gpu_limit_w)
        self.brake_mhz[rows] = np.where(np.isnan(brake_mhz), self.brake_mhz[rows], brake_mhz)

    def clock_mhz(self) -> Vec:
        """Highest clock in force on each server, brake included [n]."""
        return np.minimum(self.cap_mhz, self.brake_mhz)
