"""Latency histograms answer as the values themselves would."""

import math

import numpy as np
import pytest

from sim_backend import histogram
from sim_backend.histogram import BINS, HIGH_S, LOW_S, RATIO, bin_index, curve, mean_s, quantile


def counts_of(values_s: np.ndarray) -> np.ndarray:
    return np.bincount([bin_index(v) for v in values_s], minlength=BINS)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99])
def test_quantiles_are_within_half_a_thousandth(share: float) -> None:
    values_s = np.random.default_rng(0).lognormal(0.0, 1.5, 50_000)
    assert quantile(counts_of(values_s), share) == pytest.approx(np.quantile(values_s, share), rel=RATIO - 1.0 + 3e-4)


def test_the_mean_is_within_half_a_thousandth() -> None:
    values_s = np.random.default_rng(0).lognormal(0.0, 1.0, 20_000)
    assert mean_s(counts_of(values_s)) == pytest.approx(values_s.mean(), rel=RATIO - 1.0)


def test_nothing_counted_has_no_quantile() -> None:
    nothing = np.zeros(BINS, np.int64)
    assert math.isnan(quantile(nothing, 0.5))
    assert math.isnan(mean_s(nothing))
    assert len(curve(nothing, 10).value_s) == 0


def test_one_value_is_every_quantile() -> None:
    counts = counts_of(np.array([0.25]))
    for share in (0.0, 0.5, 1.0):
        assert quantile(counts, share) == pytest.approx(0.25, rel=RATIO - 1.0)


@pytest.mark.parametrize("value_s", [0.0, -1.0, LOW_S, 1e-9, HIGH_S, 1e9])
def test_values_beyond_the_range_fall_into_the_outermost_bins(value_s: float) -> None:
    assert bin_index(value_s) == (0 if value_s <= LOW_S else BINS - 1)


def test_a_value_lies_between_the_edges_of_its_bin() -> None:
    for value_s in np.random.default_rng(1).uniform(2e-4, 9e4, 1000):
        index = bin_index(value_s)
        low_s, high_s = histogram.edges_s(np.array([index, index + 1.0]))
        assert low_s * (1 - 1e-12) <= value_s <= high_s * (1 + 1e-12)


def test_the_curve_rises_from_nothing_to_all() -> None:
    values_s = np.random.default_rng(0).lognormal(0.0, 1.0, 10_000)
    drawn = curve(counts_of(values_s), 200)
    assert len(drawn.value_s) == len(drawn.share) == 200
    assert drawn.share[0] == 0.0
    assert drawn.share[-1] == 1.0
    assert np.all(np.diff(drawn.value_s) > 0)
    assert np.all(np.diff(drawn.share) >= 0)
    middle = np.interp(0.5, drawn.share, drawn.value_s)
    assert middle == pytest.approx(np.median(values_s), rel=0.02)
