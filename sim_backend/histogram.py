"""Latency distributions as counts in bins that widen with the value: constant memory, relative error under 0.05 %."""

import math

import numpy as np
from numpy.typing import NDArray

from sim_backend.result import LatencyCurve

Counts = NDArray[np.int64]

LOW_S = 1e-4
"""Lower edge of the first bin; what is shorter is counted there."""
HIGH_S = 1e5
"""Longer than any wait worth telling apart: more than a day."""
RATIO = 1.0005
"""Upper edge of a bin over its lower edge: a tenth of the 0.5 points in which a latency change is read."""
BINS_PER_E = 1.0 / math.log(RATIO)
BINS = math.ceil(math.log(HIGH_S / LOW_S) * BINS_PER_E)


def bin_index(value_s: float) -> int:
    """The bin that counts `value_s`; the outermost bins take all that lies beyond."""
    if value_s <= LOW_S:
        return 0
    return min(int(math.log(value_s * (1.0 / LOW_S)) * BINS_PER_E), BINS - 1)


def edges_s(index: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where bin `index` begins; a fraction reaches into the bin."""
    result: NDArray[np.float64] = LOW_S * np.exp(index / BINS_PER_E)
    return result


def quantile(counts: Counts, share: float) -> float:
    """The value below which `share` of all counted values lie; NaN if nothing was counted.

    Values are taken to be spread evenly (in their logarithm) within a bin.
    """
    cumulative = np.cumsum(counts)
    total = int(cumulative[-1])
    if total == 0:
        return math.nan
    rank = share * total
    index = min(int(np.searchsorted(cumulative, max(rank, 0.5))), len(counts) - 1)
    inside = (rank - (cumulative[index] - counts[index])) / counts[index]
    return float(edges_s(np.array(index + min(max(inside, 0.0), 1.0))))


def mean_s(counts: Counts) -> float:
    """Mean of the counted values, each at the middle of its bin; NaN if nothing was counted."""
    total = int(counts.sum())
    if total == 0:
        return math.nan
    return float(counts @ edges_s(np.arange(len(counts), dtype=np.float64) + 0.5)) / total


def curve(counts: Counts, points: int) -> LatencyCurve:
    """The cumulative distribution at `points` values, evenly spaced in their logarithm over what was counted."""
    filled = np.flatnonzero(counts)
    if len(filled) == 0:
        return LatencyCurve(np.empty(0), np.empty(0))
    positions = np.linspace(filled[0], filled[-1] + 1, points)
    cumulative = np.concatenate(([0], np.cumsum(counts)))
    share = np.interp(positions, np.arange(len(cumulative)), cumulative / cumulative[-1])
    return LatencyCurve(edges_s(positions), share)
