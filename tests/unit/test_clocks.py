import numpy as np
import pytest

from policies.models.clocks import PowerLaw, Work, clock_under, drawn_w, dynamic_ratio, slowdown
from policies.models.roofline import busy_w

LAW = PowerLaw(
    idle_w=100.0, active_w=150.0, compute_w=400.0, memory_w=50.0, exponent=3.0, voltage_floor=0.7, memory_knee=0.5
)
PROMPT, DECODE = Work(compute_s=1.0, memory_s=0.1), Work(compute_s=0.2, memory_s=1.0)


def test_above_the_voltage_floor_power_goes_with_the_cube_and_below_it_with_the_clock() -> None:
    assert dynamic_ratio(0.8, 3.0, 0.7) == pytest.approx(0.8**3)
    assert dynamic_ratio(0.7, 3.0, 0.7) == pytest.approx(0.7**3)
    assert dynamic_ratio(0.35, 3.0, 0.7) == pytest.approx(0.7**3 / 2.0)
    assert dynamic_ratio(0.35, 3.0, 0.0) == pytest.approx(0.35**3)


def test_prompts_slow_down_with_the_clock_and_decoding_only_below_the_knee() -> None:
    clocks = np.array([1.0, 0.8, 0.5, 0.25])
    assert slowdown(LAW, PROMPT, clocks) == pytest.approx(1.0 / clocks)
    assert slowdown(LAW, DECODE, clocks) == pytest.approx([1.0, 1.0, 1.0, 2.0])
    half_waiting = Work(compute_s=1.0, memory_s=0.0, waiting_s=1.0)
    assert slowdown(LAW, half_waiting, 0.5) == pytest.approx(1.5)


def test_draws_what_the_roofline_says_while_the_memory_keeps_up() -> None:
    for ratio in (1.0, 0.8, 0.7):
        compute = 0.2 / ratio
        said = busy_w(100.0, ratio**3, 150.0 + 400.0 * compute, 50.0)
        assert drawn_w(LAW, DECODE, ratio) == pytest.approx(said)


def test_a_memory_that_waits_for_the_clock_draws_less() -> None:
    no_compute = PowerLaw(100.0, 0.0, 0.0, 50.0, 3.0, memory_knee=0.5)
    assert drawn_w(no_compute, DECODE, 0.25) == pytest.approx(125.0)


def test_a_limit_is_met_to_the_watt_where_it_binds() -> None:
    limits = np.array([300.0, 400.0, 500.0])
    clocks = clock_under(LAW, PROMPT, limits)
    assert drawn_w(LAW, PROMPT, clocks) == pytest.approx(limits, abs=0.001)
    assert (np.diff(clocks) > 0.0).all()


def test_a_limit_above_the_draw_leaves_the_full_clock() -> None:
    full_w = drawn_w(LAW, PROMPT, 1.0)
    assert clock_under(LAW, PROMPT, full_w) == 1.0
    assert clock_under(LAW, PROMPT, full_w - 1.0) < 1.0


def test_a_limit_below_what_the_lowest_clock_draws_is_not_obeyed() -> None:
    law = PowerLaw(100.0, 150.0, 400.0, 50.0, 3.0, min_ratio=0.2)
    assert clock_under(law, PROMPT, 90.0) == pytest.approx(0.2)
    assert drawn_w(law, PROMPT, 0.2) > 90.0


def test_one_watt_less_costs_more_speed_below_the_voltage_floor() -> None:
    at_floor_w = drawn_w(LAW, PROMPT, 0.7)
    above = 0.7 * (slowdown(LAW, PROMPT, 0.7) - slowdown(LAW, PROMPT, clock_under(LAW, PROMPT, at_floor_w + 20.0)))
    below = 0.7 * (slowdown(LAW, PROMPT, clock_under(LAW, PROMPT, at_floor_w - 20.0)) - slowdown(LAW, PROMPT, 0.7))
    assert below > 2.0 * above
