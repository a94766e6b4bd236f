"""How commands reach the plant: late, and on one path sometimes not at all."""

import heapq
import itertools
from dataclasses import dataclass

import numpy as np

from policies.arrays import Ints, Rows, Vec
from policies.topology import Constraints
from sim_backend.site import Actuation

_NONE: Ints = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class _Caps:
    rows: Ints
    cap_mhz: Vec
    gpu_limit_w: Vec


@dataclass(frozen=True, slots=True, eq=False)
class _Brake:
    constraint: int
    mhz: float


class Actuators:
    """Caps now in force on the plant's GPUs, and those on their way.

    Commands of one kind keep their order: of two to one server the later sent arrives later.
    """

    def __init__(self, actuation: Actuation, max_mhz: Vec, constraints: Constraints, rng: np.random.Generator) -> None:
        """Start with everything uncapped.

        Args:
            actuation: delays and losses of the path.
            max_mhz: full clock of each server [n].
            constraints: which servers a brake is for.
            rng: decides which commands are lost.
        """
        n = max_mhz.size
        self.actuation, self._constraints, self._rng = actuation, constraints, rng
        self.index = np.arange(n)
        self.cap_mhz = max_mhz.copy()
        self.gpu_limit_w = np.full(n, np.inf)
        self.brake_mhz = np.full((constraints.count, n), np.inf)
        """A server may hang below several brakes, each engaged and released by itself [m, n]."""
        self.sent = self.failed = self.reissued = 0
        self._order = itertools.count()
        self._line: list[tuple[float, int, _Caps | _Brake]] = []

    def send_caps(self, rows: Rows, cap_mhz: Vec, gpu_limit_w: Vec, now_s: float, *, reissued: bool) -> Ints:
        """Put caps on the path; each server's command is lost by itself.

        Returns:
            The servers whose command was lost: an in-band writer sees the error, an out-of-band one must not look.
        """
        index = self.index[rows]
        self.sent += index.size
        self.reissued += index.size if reissued else 0
        lost = _NONE
        if self.actuation.failure_probability > 0.0:
            arrives = self._rng.random(index.size) >= self.actuation.failure_probability
            lost = index[~arrives]
            self.failed += lost.size
            index, cap_mhz, gpu_limit_w = index[arrives], cap_mhz[arrives], gpu_limit_w[arrives]
        self._push(now_s + self.actuation.latency_s, _Caps(index, cap_mhz, gpu_limit_w))
        return lost

    def send_brake(self, constraint: int, brake_mhz: float, now_s: float) -> None:
        """Put the brake (or inf, its release) on its own path, which is taken as reliable."""
        self._push(now_s + self.actuation.brake_latency_s, _Brake(constraint, brake_mhz))

    def _push(self, due_s: float, command: "_Caps | _Brake") -> None:
        heapq.heappush(self._line, (due_s, next(self._order), command))

    @property
    def next_due_s(self) -> float:
        """When the next command arrives; inf with none on the way."""
        return self._line[0][0] if self._line else np.inf

    def arrive(self) -> None:
        """Let the next command take effect."""
        _, _, command = heapq.heappop(self._line)
        match command:
            case _Caps(rows, cap_mhz, gpu_limit_w):
                self.cap_mhz[rows] = cap_mhz
                self.gpu_limit_w[rows] = gpu_limit_w
            case _Brake(constraint, brake_mhz):
                self.brake_mhz[constraint, self._constraints.servers(constraint)] = brake_mhz

    def clock_mhz(self) -> Vec:
        """Highest clock in force on each server, brake included [n]."""
        in_force: Vec = np.minimum(self.cap_mhz, self.brake_mhz.min(axis=0))
        return in_force
