"""What a run leaves behind: a power series, cap states, hourly latencies; figures are computed when it has ended.

Figures are computed block by block, to the same bytes as over the whole series at once.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from policies.arrays import Flags, Vec
from policies.models.protection import Edge, Heat
from sim_backend.histogram import Counts, quantile
from sim_backend.meter import largest_rise, window_means
from sim_backend.outcome import Observed
from sim_backend.result import PowerSeries
from sim_backend.seconds import AT_HAND, Seconds, power_of

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

    def __init__(
        self, steps: int, priority: "np.ndarray[tuple[int], np.dtype[np.int64]]", *, at_hand: int = AT_HAND
    ) -> None:
        """For `steps` seconds, of which at most `at_hand` are kept in memory."""
        self._seconds = Seconds(max(1, min(steps, at_hand)))
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
        self._seconds.append(power_w, self._share, braked=braked)
        if self._share:
            self.capped_server_s += self._capped
        self.energy_j += total_w

    @property
    def steps(self) -> int:
        """Seconds recorded."""
        return len(self._seconds)

    @property
    def power_w(self) -> Vec:
        """Power of the domain under study in each second; all of it at once, for short runs."""
        return power_of(self._seconds.read(0, self.steps))

    @property
    def capped_share(self) -> Vec:
        """Share of the servers capped in each second, likewise."""
        return np.asarray(self._seconds.read(0, self.steps)["capped_share"], dtype=np.float64)

    @property
    def braked(self) -> Flags:
        """Seconds with the brake engaged, likewise."""
        braked: Flags = self._seconds.read(0, self.steps)["braked"]
        return braked

    def hour(self, plant: Observed) -> None:
        """Keep the quantiles of the hour that ends now."""
        counts = plant.stats.take_hour_e2e_s()
        self.hours.append(np.array([[_quantile(c, 0.5), _quantile(c, 0.99)] for c in counts]))

    def mean_capped_s(self) -> Vec:
        """Seconds that a server of each priority spent capped, on average [2]."""
        return np.asarray(self.capped_server_s / self._servers, dtype=np.float64)

    def power_figures(self, budget_w: float, window_s: int, warm_up_s: int) -> dict[str, object]:
        """Peaks, rises and time above POLCA's lines, relative to the budget, after the warm-up."""
        start = min(warm_up_s, self.steps // 2)
        peak, peak_1s_w, above_t1, above_t2, rises = -math.inf, -math.inf, 0, 0, np.zeros(2)
        lags = (max(1, 2 // window_s), 40 // window_s)
        top = Largest((self.steps - start) // window_s, 0.99)
        before = np.empty(0)
        for block in self._seconds.blocks(window_s, start):
            readings = window_means(power_of(block), window_s) / budget_w
            peak_1s_w = max(peak_1s_w, float(block["power_w"].max()))
            peak = max(peak, float(readings.max(initial=-math.inf)))
            above_t1 += int((readings > 0.80).sum())
            above_t2 += int((readings > 0.89).sum())
            top.take(readings)
            before = np.concatenate((before, readings))
            rises = np.maximum(rises, [largest_rise(before, lag) for lag in lags])
            before = before[-max(lags) :]
        return {
            "peak_over_budget": peak,
            "p99_over_budget": top.quantile(),
            "peak_1s_over_budget": peak_1s_w / budget_w,
            "rise_2s_points": 100.0 * float(rises[0]),
            "rise_40s_points": 100.0 * float(rises[1]),
            "above_t1_s": float(above_t1 * window_s),
            "above_t2_s": float(above_t2 * window_s),
        }

    def series(self, window_s: int, delay_s: int) -> PowerSeries:
        """The run binned for a plot, and its worst minutes second by second."""
        width = max(1, -(-self.steps // PLOT_BINS))
        low_w, mean_w, high_w, share, braked = (np.concatenate(part) for part in zip(*self._bins(width), strict=True))
        worst = self._highest_reading(window_s) * window_s
        start = max(0, min(worst - WORST_S // 2, self.steps - WORST_S))
        rows = self._seconds.read(start, start + WORST_S)
        return PowerSeries(
            bin_s=float(width),
            low_w=low_w,
            mean_w=mean_w,
            high_w=high_w,
            capped_share=share,
            braked=braked,
            worst_start_s=float(start),
            worst_w=power_of(rows),
            worst_meter_w=self._delivered_w(start, len(rows), window_s, delay_s),
            worst_capped_share=rows["capped_share"].astype(np.float64),
            worst_braked=rows["braked"].copy(),
        )

    def _bins(self, width: int) -> Iterator[tuple[Vec, Vec, Vec, Vec, Flags]]:
        """Least, mean and greatest power, greatest share capped and any brake, in bins of `width` seconds."""
        for block in self._seconds.blocks(width):
            starts = np.arange(0, len(block), width)
            sizes = np.diff(np.append(starts, len(block)))
            power_w = power_of(block)
            yield (
                np.minimum.reduceat(power_w, starts),
                np.add.reduceat(power_w, starts) / sizes,
                np.maximum.reduceat(power_w, starts),
                np.maximum.reduceat(block["capped_share"], starts).astype(np.float64),
                np.logical_or.reduceat(block["braked"], starts),
            )

    def _highest_reading(self, window_s: int) -> int:
        """Which reading of the meter is the highest, of equals the first; 0 if there is none."""
        highest, highest_w, first = 0, -math.inf, 0
        for block in self._seconds.blocks(window_s):
            readings_w = window_means(power_of(block), window_s)
            if readings_w.size and readings_w.max() > highest_w:
                highest, highest_w = first + int(readings_w.argmax()), float(readings_w.max())
            first += readings_w.size
        return highest

    def _delivered_w(self, start: int, seconds: int, window_s: int, delay_s: int) -> Vec:
        """What the meter had said last by the end of each second from `start` on; NaN while it had said nothing."""
        delivered = (np.arange(start, start + seconds) + 1 - delay_s) // window_s - 1
        count = self.steps // window_s
        if count == 0:
            return np.full(seconds, np.nan)
        known = np.clip(delivered, 0, count - 1)
        rows = self._seconds.read(int(known[0]) * window_s, (int(known[-1]) + 1) * window_s)
        readings_w = window_means(power_of(rows), window_s)
        return np.where(delivered >= 0, readings_w[known - known[0]], np.nan)


class Largest:
    """A quantile near 1 of many values that come in blocks: keeps those above it, no others."""

    def __init__(self, count: int, share: float) -> None:
        """Of `count` values, the one below which `share` of them lie."""
        position = share * (count - 1)
        self._weight = position - math.floor(position)
        self._room = count - math.floor(position)
        self._largest = np.empty(0)

    def take(self, values: Vec) -> None:
        """More of the values."""
        both = np.concatenate((self._largest, values))
        self._largest = both if both.size <= self._room else np.partition(both, both.size - self._room)[-self._room :]

    def quantile(self) -> float:
        """Between the two values next to it, as `numpy.quantile` does, to the same bit."""
        low, high = np.sort(self._largest)[[0, min(1, self._room - 1)]]
        step = high - low
        return float(low + step * self._weight if self._weight < 0.5 else high - step * (1.0 - self._weight))


def protection_of(edge: Edge, rating_w: float) -> Protection:
    """A cold device of this rating."""
    return Protection(Heat(edge), rating_w)


def _quantile(counts: Counts, share: float) -> float:
    return quantile(counts, share) if counts.any() else float("nan")
