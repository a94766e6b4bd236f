"""What a run leaves behind: a power series, cap states, hourly latencies; figures are computed when it has ended."""

import math
from dataclasses import dataclass

import numpy as np

from policies.arrays import Flags, Vec
from policies.models.protection import Edge, Heat
from sim_backend.histogram import Counts, quantile
from sim_backend.meter import largest_rise, window_means
from sim_backend.plant import Plant
from sim_backend.result import PowerSeries

HOUR_S = 3600
PLOT_BINS = 1_200
"""Bins of the power plot: about the pixels of a wide screen."""
WORST_S = 120
"""Seconds shown around the highest reading."""


@dataclass(slots=True)
class Protection:
    """A breaker or UPS watching one constraint."""

    heat: Heat
    rating_w: float
    highest: float = 0.0
    trips: int = 0
    left_min_s: float | None = None

    def advance(self, drawn_w: float) -> None:
        """One more second at `drawn_w`. A trip is counted and the device reset: the run goes on to show the rest."""
        load = drawn_w / self.rating_w
        if load <= 1.0 and self.heat.ratio == 0.0:
            return
        self.heat.advance(load, 1.0)
        self.highest = max(self.highest, self.heat.ratio)
        left_s = self.heat.left_s(load)
        if not math.isinf(left_s):
            self.left_min_s = left_s if self.left_min_s is None else min(self.left_min_s, left_s)
        if self.heat.ratio >= 1.0:
            self.trips += 1
            self.heat.ratio = 0.0


class Recorder:
    """Series of one run, 1 s each: power of the domain under study, share of servers capped, brake."""

    def __init__(self, steps: int, priority: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> None:
        """Room for `steps` seconds."""
        self.steps = 0
        self.power_w = np.zeros(steps)
        self.capped_share = np.zeros(steps, dtype=np.float32)
        self.braked = np.zeros(steps, dtype=np.bool_)
        self.energy_j = 0.0
        self.capped_server_s = np.zeros(2)
        self.hours: list[Vec] = []
        """End-to-end p50 and p99 of each hour [priority, 2]."""
        self._priority = priority
        self._servers = np.maximum(np.bincount(priority, minlength=2), 1)
        self._capped = np.zeros(2)
        self._share = 0.0

    def caps_changed(self, capped: Flags) -> None:
        """Which servers are held below their maximum from now on [n]."""
        self._capped = np.bincount(self._priority[capped], minlength=2).astype(np.float64)
        self._share = float(capped.mean())

    def second(self, power_w: float, total_w: float, *, braked: bool) -> None:
        """One more second: power of the domain under study and of all servers."""
        k = self.steps
        self.power_w[k] = power_w
        if self._share:
            self.capped_share[k] = self._share
            self.capped_server_s += self._capped
        if braked:
            self.braked[k] = True
        self.energy_j += total_w
        self.steps = k + 1

    def hour(self, plant: Plant) -> None:
        """Keep the quantiles of the hour that ends now."""
        counts = plant.stats.take_hour_e2e_s()
        self.hours.append(np.array([[_quantile(c, 0.5), _quantile(c, 0.99)] for c in counts]))

    def mean_capped_s(self) -> Vec:
        """Seconds that a server of each priority spent capped, on average [2]."""
        return np.asarray(self.capped_server_s / self._servers, dtype=np.float64)

    def power_figures(self, budget_w: float, window_s: int, warm_up_s: int) -> dict[str, object]:
        """Peaks, rises and time above POLCA's lines, relative to the budget, after the warm-up."""
        power_w = self.power_w[min(warm_up_s, self.steps // 2) : self.steps]
        readings = window_means(power_w, window_s) / budget_w
        return {
            "peak_over_budget": float(readings.max()),
            "p99_over_budget": float(np.quantile(readings, 0.99)),
            "peak_1s_over_budget": float(power_w.max()) / budget_w,
            "rise_2s_points": 100.0 * largest_rise(readings, max(1, 2 // window_s)),
            "rise_40s_points": 100.0 * largest_rise(readings, 40 // window_s),
            "above_t1_s": float((readings > 0.80).sum() * window_s),
            "above_t2_s": float((readings > 0.89).sum() * window_s),
        }

    def series(self, window_s: int, delay_s: int) -> PowerSeries:
        """The run binned for a plot, and its worst minutes second by second."""
        power_w = self.power_w[: self.steps]
        width = max(1, -(-self.steps // PLOT_BINS))
        starts = np.arange(0, self.steps, width)
        sizes = np.diff(np.append(starts, self.steps))
        readings = window_means(power_w, window_s)
        worst = int(readings.argmax()) * window_s if readings.size else 0
        start = max(0, min(worst - WORST_S // 2, self.steps - WORST_S))
        inside = slice(start, min(start + WORST_S, self.steps))
        seconds = np.arange(inside.start, inside.stop) + 1
        delivered = (seconds - delay_s) // window_s - 1
        meter_w = np.where(delivered >= 0, readings[np.clip(delivered, 0, readings.size - 1)], np.nan)
        return PowerSeries(
            bin_s=float(width),
            low_w=np.minimum.reduceat(power_w, starts),
            mean_w=np.add.reduceat(power_w, starts) / sizes,
            high_w=np.maximum.reduceat(power_w, starts),
            capped_share=np.maximum.reduceat(self.capped_share[: self.steps], starts).astype(np.float64),
            braked=np.logical_or.reduceat(self.braked[: self.steps], starts),
            worst_start_s=float(inside.start),
            worst_w=power_w[inside].copy(),
            worst_meter_w=meter_w,
            worst_capped_share=self.capped_share[inside].astype(np.float64),
            worst_braked=self.braked[inside].copy(),
        )


def protection_of(edge: Edge, rating_w: float) -> Protection:
    """A cold device of this rating."""
    return Protection(Heat(edge), rating_w)


def _quantile(counts: Counts, share: float) -> float:
    return quantile(counts, share) if counts.any() else float("nan")
