"""Series of a run made small for the page: quantised, base64, read back by the page's script."""

import base64
import math

import numpy as np
from numpy.typing import NDArray

from sim_backend.result import LATENCY_METRICS, PRIORITIES, LatencyCurve, PowerSeries, RunResult, Vec

BINS_MOST = 1500
"""More bins than pixels of a wide screen show nothing more."""
STEPS = 65_535
"""Resolution of a 16-bit number: 7 W of a 450 kW row."""
BRAKED_BIT = 128
LEAST_ODDS, MOST_ODDS = -2.0, 4.0
"""Decades of odds p / (1 - p) kept of a distribution: from its 1st to its 99.99th percentile."""
CURVE_POINTS = 180


def power(series: PowerSeries) -> dict[str, object]:
    """Bins, and the worst minute, of a run's power."""
    bins = merged(series, BINS_MOST)
    top_w = max(_top(bins.high_w), _top(series.worst_w), _top(series.worst_meter_w), 1.0)
    return {
        "bin_s": bins.bin_s,
        "step_w": top_w / (STEPS - 1),
        "low": _watts(bins.low_w, top_w),
        "mean": _watts(bins.mean_w, top_w),
        "high": _watts(bins.high_w, top_w),
        "caps": _caps(bins.capped_share, bins.braked),
        "worst_start_s": series.worst_start_s,
        "worst": _watts(series.worst_w, top_w),
        "worst_meter": _watts(series.worst_meter_w, top_w),
        "worst_caps": _caps(series.worst_capped_share, series.worst_braked),
    }


def latency(run: RunResult) -> list[dict[str, object]]:
    """Distributions of a run and of its uncapped twin on common points, per priority and metric."""
    found = []
    for priority in reversed(PRIORITIES):
        for metric in LATENCY_METRICS:
            curves = [side.get(priority, {}).get(metric) for side in (run.latency, run.latency_uncapped)]
            if any(curve is not None and curve.value_s.size for curve in curves):
                found.append({"priority": priority, "metric": metric, **_pair(*curves)})
    return found


def merged(series: PowerSeries, bins_most: int) -> PowerSeries:
    """The same series in at most `bins_most` bins, keeping every extreme."""
    fold = math.ceil(series.mean_w.size / bins_most)
    if fold <= 1:
        return series
    starts = np.arange(0, series.mean_w.size, fold)
    counts = np.diff(np.append(starts, series.mean_w.size))
    return PowerSeries(
        series.bin_s * fold,
        np.minimum.reduceat(series.low_w, starts),
        np.add.reduceat(series.mean_w, starts) / counts,
        np.maximum.reduceat(series.high_w, starts),
        np.maximum.reduceat(series.capped_share, starts),
        np.logical_or.reduceat(series.braked, starts),
        series.worst_start_s,
        series.worst_w,
        series.worst_meter_w,
        series.worst_capped_share,
        series.worst_braked,
    )


def _top(values: Vec) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else 0.0


def _watts(values: Vec, top_w: float) -> str:
    """Watts in steps; the highest number means no value."""
    steps = np.clip(np.round(np.where(np.isfinite(values), values, 0.0) / top_w * (STEPS - 1)), 0, STEPS - 1)
    return _base64(np.where(np.isfinite(values), steps, STEPS).astype("<u2"))


def _caps(share: Vec, braked: NDArray[np.bool_]) -> str:
    """Per cent of servers capped, rounded up so that a single one shows, and the brake as the highest bit."""
    percent = np.clip(np.ceil(100.0 * np.nan_to_num(share) - 1e-9), 0, 100).astype(np.uint8)
    return _base64(percent | np.where(braked, BRAKED_BIT, 0).astype(np.uint8))


def _pair(run: LatencyCurve | None, uncapped: LatencyCurve | None) -> dict[str, object]:
    """Both curves over the union of their own points, so that neither loses its steps."""
    kept = [_thinned(curve) for curve in (run, uncapped) if curve is not None and curve.value_s.size]
    value_s = np.unique(np.concatenate([values for values, _ in kept]).astype("<f4"))
    packed: dict[str, object] = {"value_s": _base64(value_s)}
    for name, curve in (("run", run), ("uncapped", uncapped)):
        packed[name] = None if curve is None or not curve.value_s.size else _base64(_steps(value_s, curve))
    return packed


def _thinned(curve: LatencyCurve) -> tuple[Vec, Vec]:
    """Values and their odds, at most about `CURVE_POINTS`, dense where the tail is."""
    usable = np.isfinite(curve.value_s)
    # At least a microsecond, since the axis is logarithmic.
    value_s = np.maximum(curve.value_s[usable], 1e-6)
    share = np.clip(curve.share[usable], 1e-12, 1.0 - 1e-12)
    odds = np.log10(share / (1.0 - share))
    wanted = np.linspace(LEAST_ODDS, MOST_ODDS, CURVE_POINTS)
    chosen = np.unique(np.clip(np.searchsorted(odds, wanted), 0, odds.size - 1))
    return value_s[chosen], odds[chosen]


def _steps(value_s: Vec, curve: LatencyCurve) -> NDArray[np.uint16]:
    """Decades of odds at `value_s`: on this axis 10 % is as far from 50 % as 90 % is, and 99 % as far again."""
    own_s, odds = _thinned(curve)
    at = np.interp(np.log(value_s), np.log(own_s), odds, left=LEAST_ODDS)
    share = (np.clip(at, LEAST_ODDS, MOST_ODDS) - LEAST_ODDS) / (MOST_ODDS - LEAST_ODDS)
    return np.round(share * STEPS).astype("<u2")


def _base64(values: NDArray[np.generic]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
