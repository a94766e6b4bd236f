"""What NVML reports next to what a GPU draws: seldom refreshed, averaged over a window, off by a board's tolerance.

Every `refresh_s` a sensor takes the mean over the last `window_s`: on an A100 or H100 a quarter of the time, so that
pulses between two windows leave no trace and a load that repeats at nearly the refresh rate appears as a slow swing.
That mean is the instantaneous reading; the average reading is the mean of the last second of them. Whoever polls more
often than that reads the same numbers again. The energy counter sums what was read, and inherits what was missed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ROUNDING_S = 1e-9
"""A refresh at the very end of a step falls into it."""


@dataclass(frozen=True, slots=True)
class SensorKind:
    """The power sensor of one kind of GPU."""

    refresh_s: float
    window_s: float
    """Over which the instantaneous reading is a mean; at most `refresh_s`."""
    average_s: float
    """Over which `power.draw` is a mean of instantaneous readings; 0: it is the last of them."""
    tolerance: float = 0.05
    """Of the gain from board to board, either way."""


KINDS = {
    "a100": SensorKind(refresh_s=0.1, window_s=0.025, average_s=0.0),
    "h100": SensorKind(refresh_s=0.1, window_s=0.025, average_s=1.0),
    "rtx": SensorKind(refresh_s=0.1, window_s=0.1, average_s=1.0),
    "v100": SensorKind(refresh_s=0.02, window_s=0.01, average_s=0.0),
}
"""A100, and H100 and later data-centre GPUs, RTX 3090 and 4090, V100.

Refresh: A100 and 3090 measured at 0.101 and 0.100 s (gpu-power-sensor), H100 0.1 s (dcgmi-dmon-logs). Window of the
A100: `calibration.sensor`; of the others, and the tolerance: arXiv 2312.02741. Averages: NVML's documentation says
which generations; that of the 3090 follows from its instantaneous readings.
"""


def kind_of(gpu: str) -> SensorKind:
    """The sensor of the GPU card `gpu`, such as "a100-80gb"; of one not known, that of the newest."""
    return KINDS.get(gpu.split("-", maxsplit=1)[0], KINDS["h100"])


@dataclass(frozen=True, slots=True, eq=False)
class Readings:
    """What all GPUs report now; each array by GPU."""

    power_w: Floats
    """NVML's `power.draw`."""
    instant_w: Floats
    energy_j: Floats
    """Since the start."""
    age_s: Floats
    """Time since the last refresh."""


class SensorBank:
    """The sensors of many GPUs, of any mixture of kinds."""

    def __init__(self, kinds: Sequence[SensorKind], step_s: float, rng: np.random.Generator) -> None:
        """Start at time 0 with readings of 0 W.

        Args:
            kinds: of each GPU.
            step_s: of `advance`.
            rng: draws when each sensor refreshes, and each board's gain within its tolerance.
        """
        self._refresh_s = np.array([kind.refresh_s for kind in kinds])
        self._window_s = np.array([kind.window_s for kind in kinds])
        tolerance = np.array([kind.tolerance for kind in kinds])
        self.gain = 1.0 + tolerance * rng.uniform(-1.0, 1.0, len(kinds))
        self.offset_w = np.zeros(len(kinds))
        self.phase_s = self._refresh_s * (1.0 - rng.random(len(kinds)))
        self._refreshes = np.zeros(len(kinds), dtype=np.int64)
        """Of each sensor, so far; the next is at `phase_s` + that many `refresh_s`."""
        self._step_s, self._steps = step_s, 0
        self._columns = np.arange(len(kinds))
        # True energy at the ends of the last steps: as far back as the longest window and refresh reach.
        slots = int(np.ceil((self._window_s + self._refresh_s).max() / step_s)) + 2
        self._true_j = np.zeros((slots, len(kinds)))
        kept = [max(1, round(kind.average_s / kind.refresh_s)) for kind in kinds]
        self._kept = np.array(kept)
        self._recent_w = np.zeros((max(kept), len(kinds)))
        self._instant_w = np.zeros(len(kinds))
        self._energy_j = np.zeros(len(kinds))

    def advance(self, power_w: Floats) -> None:
        """One step in which the GPUs draw `power_w` [n]; refreshes that fall into it take place."""
        slots = len(self._true_j)
        before = self._true_j[self._steps % slots]
        self._steps += 1
        self._true_j[self._steps % slots] = before + power_w * self._step_s
        due = self._due()
        if due.any():
            self._refresh(due)
            self._repeat(power_w)

    def read(self) -> Readings:
        """What polling the GPUs now returns."""
        filled = np.minimum(np.maximum(self._refreshes, 1), self._kept)
        last_s = self.phase_s + (self._refreshes - 1) * self._refresh_s
        now_s = self._steps * self._step_s
        return Readings(
            power_w=self._recent_w.sum(axis=0) / filled,
            instant_w=self._instant_w.copy(),
            energy_j=self._energy_j.copy(),
            age_s=np.maximum(np.where(self._refreshes > 0, now_s - last_s, now_s), 0.0),
        )

    def _due(self) -> NDArray[np.bool_]:
        now_s = self._steps * self._step_s + ROUNDING_S
        due: NDArray[np.bool_] = self.phase_s + self._refreshes * self._refresh_s <= now_s
        return due

    def _refresh(self, due: NDArray[np.bool_]) -> None:
        at_s = self.phase_s + self._refreshes * self._refresh_s
        since_s = np.maximum(at_s - self._window_s, 0.0)
        lasted_s = np.maximum(at_s - since_s, 1e-12)
        mean_w = (self._energy_at(at_s) - self._energy_at(since_s)) / lasted_s
        instant_w = np.maximum(self.gain * mean_w + self.offset_w, 0.0)
        self._instant_w = np.where(due, instant_w, self._instant_w)
        self._energy_j += np.where(due, instant_w * self._refresh_s, 0.0)
        slot = self._refreshes % self._kept
        self._recent_w[slot, self._columns] = np.where(due, instant_w, self._recent_w[slot, self._columns])
        self._refreshes += due

    def _repeat(self, power_w: Floats) -> None:
        """Further refreshes within a long step: their windows see nothing but `power_w`."""
        late_s = self._steps * self._step_s + ROUNDING_S - self.phase_s - self._refreshes * self._refresh_s
        count = np.maximum(np.floor(late_s / self._refresh_s).astype(np.int64) + 1, 0)
        if not count.any():
            return
        instant_w = np.maximum(self.gain * power_w + self.offset_w, 0.0)
        self._instant_w = np.where(count > 0, instant_w, self._instant_w)
        self._energy_j += count * instant_w * self._refresh_s
        written = np.minimum(count, self._kept)
        for j in range(int(written.max())):
            slot = (self._refreshes + j) % self._kept
            self._recent_w[slot, self._columns] = np.where(j < written, instant_w, self._recent_w[slot, self._columns])
        self._refreshes += count

    def _energy_at(self, time_s: Floats) -> Floats:
        """True energy at a time within the stored steps, in proportion within a step."""
        slots = len(self._true_j)
        position = np.clip(time_s / self._step_s, max(0, self._steps - slots + 1), self._steps)
        whole = np.minimum(position.astype(np.int64), max(0, self._steps - 1))
        low, high = self._true_j[whole % slots, self._columns], self._true_j[(whole + 1) % slots, self._columns]
        energy: Floats = low + (high - low) * (position - whole)
        return energy
