"""Equations of power and latency, and what a controller believes of its fleet."""

import numpy as np
import pytest

from policies.models.fleet import FleetModel
from policies.models.gpu_power import clock_factor, clock_ratio_at, prefill_ratio
from policies.models.latency import decode_s, prefill_s, slowdown


def test_full_clock_draws_full_power_and_no_clock_the_static_share() -> None:
    assert clock_factor(1.0, 0.3, 2.4) == 1.0
    assert clock_factor(0.0, 0.3, 2.4) == pytest.approx(0.3)


def test_power_rises_with_the_clock() -> None:
    factors = clock_factor(np.linspace(0.1, 1.0, 50), 0.3, 2.4)
    assert (np.diff(factors) > 0.0).all()


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.73, 1.0])
def test_the_clock_at_a_power_is_the_inverse_of_the_power_at_a_clock(ratio: float) -> None:
    assert clock_ratio_at(clock_factor(ratio, 0.3, 2.4), 0.3, 2.4) == pytest.approx(ratio)


def test_a_power_that_clocks_cannot_reach_gives_the_nearest_clock() -> None:
    assert clock_ratio_at(0.1, 0.3, 2.4) == 0.0
    assert clock_ratio_at(1.7, 0.3, 2.4) == 1.0


def test_prefill_power_rises_by_octaves_to_its_ceiling() -> None:
    assert prefill_ratio(128.0, 0.6, 0.1, 1.02) == pytest.approx(0.6)
    assert prefill_ratio(512.0, 0.6, 0.1, 1.02) == pytest.approx(0.8)
    assert prefill_ratio(1e6, 0.6, 0.1, 1.02) == 1.02


def test_only_the_clock_bound_share_of_an_iteration_stretches() -> None:
    assert slowdown(1.0, 0.4) == 1.0
    assert slowdown(0.5, 1.0) == 2.0
    assert slowdown(0.5, 0.0) == 1.0
    assert slowdown(np.array([0.5]), 0.2).tolist() == [pytest.approx(1.2)]


def test_iterations_take_longer_with_tokens_batch_and_context() -> None:
    assert prefill_s(0.0, 0.02, 1e-4, 1e-8) == 0.02
    assert prefill_s(1_000.0, 0.02, 1e-4, 1e-8) == pytest.approx(0.13)
    assert decode_s(8.0, 4_000.0, 0.03, 1e-4, 1e-7) == pytest.approx(0.0312)
    assert decode_s(64.0, 64_000.0, 0.03, 1e-4, 1e-7) > decode_s(64.0, 4_000.0, 0.03, 1e-4, 1e-7)


def believed(n: int = 3) -> FleetModel:
    return FleetModel(np.full(n, 1_000.0), np.full(n, 0.3), np.full(n, 2.4), np.full(n, 2_000.0))


def test_demand_is_what_was_drawn_where_nothing_is_capped() -> None:
    drawn_w = np.array([500.0, 3_000.0, 9_000.0])
    assert believed().demand_w(drawn_w, np.full(3, 2_000.0)).tolist() == drawn_w.tolist()
    assert believed().demand_w(drawn_w, np.full(3, np.inf)).tolist() == drawn_w.tolist()


def test_demand_undoes_the_clock_cap() -> None:
    uncapped_w = 1_000.0 + 5_000.0
    capped_w = 1_000.0 + 5_000.0 * clock_factor(0.6, 0.3, 2.4)
    assert believed(1).demand_w(np.array([capped_w]), np.array([1_200.0]))[0] == pytest.approx(uncapped_w)


def test_demand_is_not_known_where_the_draw_is_not() -> None:
    assert np.isnan(believed().demand_w(np.array([np.nan, 3_000.0, 3_000.0]), np.full(3, 900.0))).tolist() == [
        True,
        False,
        False,
    ]


def test_beliefs_are_off_by_no_more_than_asked_each_by_its_own() -> None:
    off = believed(200).disturbed(0.1, np.random.default_rng(1))
    ratios = off.other_w / 1_000.0
    assert 0.9 <= ratios.min() < 0.92
    assert 1.08 < ratios.max() <= 1.1
    assert len(set(ratios.tolist())) == 200
    again = believed(200).disturbed(0.1, np.random.default_rng(1))
    assert again.exponent.tolist() == off.exponent.tolist()
    assert off.max_mhz.tolist() == [2_000.0] * 200, "a rating is no belief"
