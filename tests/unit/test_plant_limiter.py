"""The firmware's power limit as a regulator: what it overshoots by, how fast it settles, and what it cannot hold."""

from dataclasses import replace

import numpy as np
import pytest

from policies.errors import ConfigError
from policies.models.iteration import iteration
from sim_backend import params as p
from sim_backend.plant import Plant
from sim_backend.profile import Profile
from tests.twin.plant_cases import MODEL, MODELLED, PROFILE, ListSource, plant_of, requests

LIMITER_S = 1.0
FIRMWARE = replace(PROFILE, prefill_ceiling=1.0, limiter_s=LIMITER_S)
FULL_W = FIRMWARE.decode_ratio * FIRMWARE.tdp_w
"""Of one GPU decoding at full clock: 350 W."""


def gpu_w(server_w: np.ndarray | float, profile: Profile = FIRMWARE) -> np.ndarray:
    return (np.asarray(server_w) - profile.other_w) / profile.gpus


def decoding(limit_w: float, seconds: float, step_s: float = 0.1, profile: Profile = FIRMWARE) -> np.ndarray:
    """GPU watts in steps from 1 s on, at which the server is decoding and a limit comes."""
    plant = plant_of(requests([0.0], prompt=50, output=40_000), profile)
    plant.advance(1.0)
    plant.take_mean_w()
    plant.set_caps(np.ones(1), np.array([limit_w]))
    means = []
    for step in range(1, round(seconds / step_s) + 1):
        plant.advance(1.0 + step * step_s)
        means.append(gpu_w(plant.take_mean_w())[0])
    return np.array(means)


def test_a_limit_under_load_is_met_within_a_few_time_constants_and_exactly_then() -> None:
    drawn_w = decoding(300.0, 20.0)
    over_w = drawn_w - 300.0
    assert over_w[0] == pytest.approx(FULL_W - 300.0, rel=0.04)
    # Most of the excess has gone after one time constant, all but a watt after five.
    assert 0.2 < over_w[round(LIMITER_S / 0.1)] / over_w[0] < 0.6
    assert np.abs(over_w[round(5 * LIMITER_S / 0.1) :]).max() < 1.0
    assert abs(over_w[100:].mean()) < 0.01


def test_a_load_that_starts_under_a_limit_overshoots_for_a_moment() -> None:
    plant = plant_of(requests([10.0], prompt=50, output=40_000), FIRMWARE)
    plant.set_caps(np.ones(1), np.array([250.0]))
    plant.advance(10.0)
    plant.take_mean_w()
    means_w = []
    for second in range(11, 31):
        plant.advance(float(second))
        means_w.append(gpu_w(plant.take_mean_w())[0])
    assert means_w[0] > 270.0
    assert abs(means_w[6] - 250.0) < 1.0
    assert np.mean(means_w[10:]) == pytest.approx(250.0, abs=0.05)


def test_an_idle_moment_gives_the_clock_back_and_the_next_load_overshoots_again() -> None:
    plant = plant_of(requests([0.0, 60.0], prompt=50, output=[600, 600]), FIRMWARE)
    plant.set_caps(np.ones(1), np.array([250.0]))
    plant.advance(20.0)
    assert plant.clock_ratio[0] < 0.8
    plant.advance(60.0)
    assert plant.clock_ratio[0] == 1.0
    plant.take_mean_w()
    plant.advance(60.5)
    assert gpu_w(plant.take_mean_w())[0] > 280.0


def test_bursts_draw_the_limit_in_the_mean_and_never_more_for_long() -> None:
    rng = np.random.default_rng(5)
    arrivals = requests(np.cumsum(rng.exponential(0.3, 1200)), rng.integers(200, 1800, 1200), 60)
    plant = plant_of(arrivals, FIRMWARE, rows=500)
    plant.set_caps(np.ones(1), np.array([330.0]))
    plant.advance(20.0)
    plant.take_mean_w()
    means_w = []
    for second in range(21, 261):
        plant.advance(float(second))
        means_w.append(gpu_w(plant.take_mean_w())[0])
    assert np.mean(means_w) < 331.0
    by_minute = np.reshape(means_w, (4, 60)).mean(axis=1)
    assert by_minute.max() < 331.0
    assert min(means_w) < 320.0 < 340.0 < max(means_w)


@pytest.mark.parametrize("limit_w", [200.0, 90.0, 1.0])
def test_a_limit_below_the_lowest_accepted_one_is_that_one(limit_w: float) -> None:
    assert decoding(limit_w, 30.0)[-50:] == pytest.approx(200.0, abs=0.5)


def test_a_limit_below_what_the_lowest_clock_draws_is_not_obeyed() -> None:
    # Measured on an A40, whose limit of 100 W is accepted and exceeded.
    high_floor = replace(FIRMWARE, min_mhz=1500.0, min_limit_w=100.0)
    ratio = 1500.0 / 1980.0
    static = FIRMWARE.decode_static_share
    lowest_w = FULL_W * (static + (1.0 - static) * ratio**FIRMWARE.decode_exponent)
    assert lowest_w > 210.0
    assert decoding(100.0, 30.0, profile=high_floor)[-50:] == pytest.approx(lowest_w, rel=1e-9)


def test_a_clock_cap_below_what_the_limit_asks_for_decides_alone() -> None:
    plant = plant_of(requests([0.0], prompt=50, output=40_000), FIRMWARE)
    plant.set_caps(np.array([0.5]), np.array([300.0]))
    plant.advance(10.0)
    assert plant.clock_ratio[0] == 0.5
    plant.set_caps(np.array([1.0]), np.array([300.0]))
    plant.advance(10.1)
    plant.take_mean_w()
    # Nothing was wound up while the clock cap decided: lifted, it overshoots as a load that starts.
    plant.advance(10.2)
    assert gpu_w(plant.take_mean_w())[0] > 330.0


@pytest.mark.parametrize("limiter_s", [0.01, 0.1, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("limit_w", [100.0, 200.0, 400.0, 650.0])
def test_neither_a_fast_limiter_nor_a_steep_law_makes_the_clock_swing(limiter_s: float, limit_w: float) -> None:
    steep = replace(
        FIRMWARE,
        limiter_s=limiter_s,
        min_limit_w=50.0,
        decode_ratio=1.0,
        decode_static_share=0.05,
        decode_exponent=3.0,
        idle_w=30.0,
    )
    drawn_w = decoding(limit_w, 20.0 + 20.0 * limiter_s, profile=steep)
    assert drawn_w[-50:] == pytest.approx(limit_w, abs=0.5)
    # One step too far at most, and back without a swing.
    assert drawn_w.min() > 0.7 * limit_w


@pytest.mark.parametrize("at_s", [0.1 * 3, 0.3, 0.7, 1.1, 2.0, 2.3, 4.099999999999999, 4.1])
def test_a_limit_that_comes_at_a_step_of_the_limiter_is_not_measured_over_no_time(at_s: float) -> None:
    # 3 * 0.1 is one bit more than 0.3: what is drawn in between is nothing, over no time.
    plant = plant_of(requests([0.0], prompt=50, output=40_000), FIRMWARE)
    plant.set_caps(np.ones(1), np.array([340.0]))
    plant.advance(at_s)
    plant.set_caps(np.ones(1), np.array([np.inf]))
    plant.set_caps(np.ones(1), np.array([300.0]))
    plant.advance(at_s + 0.04)
    assert plant.clock_ratio[0] == 1.0
    plant.advance(at_s + 20.0)
    plant.take_mean_w()
    plant.advance(at_s + 21.0)
    assert gpu_w(plant.take_mean_w())[0] == pytest.approx(300.0, abs=0.5)


def test_means_do_not_depend_on_when_they_are_taken() -> None:
    often, once = (plant_of(requests([0.0], prompt=50, output=40_000), FIRMWARE) for _ in range(2))
    for plant in (often, once):
        plant.set_caps(np.ones(1), np.array([300.0]))
    joules = 0.0
    for step in range(1, 301):
        often.advance(0.07 * step)
        joules += often.take_mean_w()[0] * 0.07
    once.advance(0.07 * 300)
    assert once.take_mean_w()[0] * once.now_s == pytest.approx(joules, rel=1e-9)
    assert once.clock_ratio[0] == pytest.approx(often.clock_ratio[0], rel=1e-9)


def test_where_no_limit_can_bind_no_limiter_steps() -> None:
    plant = plant_of(requests([0.0], prompt=50, output=400), FIRMWARE)
    assert plant._control[p.C_LIMITED] == 0
    plant.set_caps(np.ones(1), np.array([690.0]))
    assert plant._control[p.C_LIMITED] == 1
    plant.set_caps(np.ones(1), np.array([np.inf]))
    assert plant._control[p.C_LIMITED] == 0
    assert plant.clock_ratio[0] == 1.0


def test_without_a_limit_the_tdp_is_one() -> None:
    hot = replace(FIRMWARE, decode_ratio=1.2)
    drawn_w = decoding(np.inf, 15.0, profile=hot)
    assert drawn_w[-50:] == pytest.approx(hot.tdp_w, abs=0.5)


def test_a_modelled_server_settles_at_its_limit_and_lasts_as_long_as_its_clock_says() -> None:
    profile = replace(MODELLED, kv_tokens=50_000, min_limit_w=100.0)
    plant = plant_of(requests([0.0], prompt=50, output=40_000), profile)
    plant.set_caps(np.ones(1), np.array([250.0]))
    plant.advance(60.0)
    plant.take_mean_w()
    before, clock_ratio = int(plant._servers["iteration"][0]), float(plant.clock_ratio[0])
    plant.advance(160.0)
    assert gpu_w(plant.take_mean_w(), profile)[0] == pytest.approx(250.0, abs=1.0)
    assert 0.3 < clock_ratio < 0.95
    done = int(plant._servers["iteration"][0]) - before
    halfway = iteration(MODEL, 1.0, 1.0, 0.0, 50.0 + before + done / 2, clock_ratio)
    assert done == pytest.approx(100.0 / halfway.lasts_s, rel=0.02)


def test_an_iteration_model_needs_a_limiter_and_as_many_gpus_as_the_server() -> None:
    for broken, word in ((replace(MODELLED, limiter_s=0.0), "limiter_s"), (replace(MODELLED, gpus=4), "4 GPUs")):
        with pytest.raises(ConfigError, match=word):
            Plant([broken], np.zeros(1, int), np.zeros(1, int), ListSource(requests([]), 1e9), {})


def test_the_lowest_draw_of_a_modelled_gpu_is_that_of_full_work_at_the_lowest_clock() -> None:
    ratio = MODELLED.min_mhz / MODELLED.max_mhz
    # Below the voltage floor power goes with the clock alone, and below the knee the memory waits.
    clocked_w = ratio * MODEL.voltage_floor ** (MODEL.exponent - 1.0) * (MODEL.active_w + MODEL.compute_w)
    hot = replace(MODELLED, min_limit_w=100.0)
    memory_w = MODEL.memory_w * ratio / MODEL.memory_knee
    assert hot.lowest_gpu_w == pytest.approx(MODEL.idle_w + clocked_w + memory_w)
    assert replace(MODELLED, min_limit_w=400.0).lowest_gpu_w == 400.0 * MODELLED.overshoot_ratio


def test_more_kinds_of_servers_than_a_row_can_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="257 kinds of servers"):
        Plant([PROFILE] * 257, np.zeros(1, int), np.zeros(1, int), ListSource(requests([]), 1e9), {})
