"""One engine against what can be worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from policies.errors import ConfigError, InvariantViolated
from policies.models import gpu_power, latency
from sim_backend.arrivals import Arrivals
from sim_backend.plant import Plant
from sim_backend.profile import Profile
from sim_backend.site import Slo
from tests.twin.plant_cases import PROFILE, ListSource, plant_of, requests

FREE_W = np.array([np.inf])


def prefill_s(tokens: int, profile: Profile = PROFILE) -> float:
    return latency.prefill_s(
        float(tokens), profile.prefill_base_s, profile.prefill_per_token_s, profile.prefill_per_token2_s
    )


def decode_s(batch: int, context: int, profile: Profile = PROFILE) -> float:
    return latency.decode_s(
        float(batch),
        float(context),
        profile.decode_base_s,
        profile.decode_per_request_s,
        profile.decode_per_context_s,
    )


def decodes_s(prompt: int, output: int) -> float:
    return sum(decode_s(1, prompt + token) for token in range(1, output))


def server_w(gpu_w: float) -> float:
    return PROFILE.other_w + PROFILE.gpus * max(gpu_w, PROFILE.idle_w)


def prefill_w(tokens: int, clock_ratio: float = 1.0) -> float:
    ratio = gpu_power.prefill_ratio(
        float(tokens), PROFILE.prefill_at_128, PROFILE.prefill_per_octave, PROFILE.prefill_ceiling
    )
    factor = gpu_power.clock_factor(clock_ratio, PROFILE.prefill_static_share, PROFILE.prefill_exponent)
    return server_w(float(ratio) * PROFILE.tdp_w * factor)


def decode_w(clock_ratio: float = 1.0) -> float:
    factor = gpu_power.clock_factor(clock_ratio, PROFILE.decode_static_share, PROFILE.decode_exponent)
    return server_w(PROFILE.decode_ratio * PROFILE.tdp_w * factor)


def test_a_request_alone_takes_its_prefill_and_its_decodes() -> None:
    plant = plant_of(requests([3.0], prompt=700, output=150))
    plant.advance(100.0)
    assert plant.ttft_s[0] == pytest.approx(prefill_s(700), rel=1e-12)
    assert plant.e2e_s[0] == pytest.approx(prefill_s(700) + decodes_s(700, 150), rel=1e-12)


def test_a_request_alone_draws_its_phases_and_idle_beside_them() -> None:
    plant = plant_of(requests([3.0], prompt=700, output=150))
    plant.advance(100.0)
    first_s, rest_s = prefill_s(700), decodes_s(700, 150)
    energy_j = first_s * prefill_w(700) + rest_s * decode_w() + (100.0 - first_s - rest_s) * server_w(PROFILE.idle_w)
    assert plant.take_mean_w()[0] * 100.0 == pytest.approx(energy_j, rel=1e-12)


def test_a_request_of_one_token_ends_with_its_prefill() -> None:
    plant = plant_of(requests([0.0], prompt=700, output=1))
    plant.advance(10.0)
    assert plant.e2e_s[0] == plant.ttft_s[0] == pytest.approx(prefill_s(700))
    assert plant.stats.tbt_s.sum() == 0


def test_an_arrival_joins_at_the_next_iteration_boundary() -> None:
    first_s = prefill_s(500)
    second_s = first_s + decode_s(1, 501)
    third_s = second_s + decode_s(1, 502)
    plant = plant_of(requests([0.0, second_s + 0.001], prompt=[500, 300], output=20))
    plant.advance(100.0)
    mixed_s = prefill_s(300 + 1) * PROFILE.mixed_batch_factor
    assert plant.ttft_s[1] == pytest.approx(third_s + mixed_s - second_s - 0.001, rel=1e-12)


def test_at_equal_times_a_server_decides_before_an_arrival() -> None:
    # Round in binary: the first prefill ends at exactly 0.5 s, and the decode that begins then at 0.75 s.
    round_times = replace(
        PROFILE,
        mixed_batch_factor=1.0,
        prefill_base_s=0.5,
        prefill_per_token_s=0.0,
        prefill_per_token2_s=0.0,
        decode_base_s=0.25,
        decode_per_request_s=0.0,
        decode_per_context_s=0.0,
    )
    plant = plant_of(requests([0.0, 0.5], output=9), round_times)
    plant.advance(100.0)
    assert plant.ttft_s.tolist() == [0.5, 0.75]


def test_residents_gain_a_token_in_a_mixed_iteration() -> None:
    boundary_s = prefill_s(500) + decode_s(1, 501)
    plant = plant_of(requests([0.0, boundary_s - 0.001], prompt=[500, 300], output=[3, 1]))
    plant.advance(100.0)
    # First token, one decode, and the third token out of the prefill of the other request.
    assert plant.e2e_s[0] == pytest.approx(boundary_s + prefill_s(301) * PROFILE.mixed_batch_factor, rel=1e-12)


def test_a_mixed_iteration_is_never_faster_than_its_decodes() -> None:
    slow = replace(PROFILE, decode_base_s=0.5)
    plant = plant_of(requests([0.0, 0.1], prompt=[500, 1], output=[50, 1]), slow)
    plant.advance(100.0)
    joins_s = prefill_s(500) + decode_s(1, 501, slow)
    assert plant.ttft_s[1] == pytest.approx(joins_s + decode_s(1, 502, slow) - 0.1, rel=1e-12)


def test_prompts_are_batched_up_to_the_token_limit() -> None:
    plant = plant_of(requests([0.0, 0.01, 0.01, 0.01], prompt=[100, 1000, 1000, 1000], output=1))
    plant.advance(100.0)
    start_s = prefill_s(100)
    assert plant.ttft_s[1] == plant.ttft_s[2] == pytest.approx(start_s + prefill_s(2000) - 0.01, rel=1e-12)
    assert plant.ttft_s[3] == pytest.approx(start_s + prefill_s(2000) + prefill_s(1000) - 0.01, rel=1e-12)


def test_a_prompt_above_the_token_limit_goes_alone() -> None:
    plant = plant_of(requests([0.0, 0.0], prompt=[5000, 10], output=1))
    plant.advance(100.0)
    assert plant.ttft_s[0] == pytest.approx(prefill_s(5000), rel=1e-12)


def test_the_head_of_the_queue_blocks_those_behind_it_while_kv_is_short() -> None:
    small = replace(PROFILE, kv_tokens=1000)
    plant = plant_of(requests([0.0, 0.1, 0.2], prompt=[600, 600, 10], output=[40, 40, 5]), small)
    plant.advance(100.0)
    first_done_s = plant.e2e_s[0]
    assert 0.1 + plant.ttft_s[1] > first_done_s
    assert 0.2 + plant.ttft_s[2] == pytest.approx(0.1 + plant.ttft_s[1], rel=1e-12)


def test_the_batch_never_exceeds_its_limit() -> None:
    narrow = replace(PROFILE, max_batch=2)
    plant = plant_of(requests([0.0, 0.0, 0.0], prompt=10, output=50), narrow)
    plant.advance(100.0)
    assert plant.ttft_s[2] > min(plant.e2e_s[0], plant.e2e_s[1])


def test_a_request_longer_than_any_kv_cache_is_rejected_and_counted() -> None:
    plant = plant_of(requests([0.0, 1.0], prompt=[60_000, 10], output=5))
    plant.advance(100.0)
    assert plant.stats.rejected.tolist() == [1, 0]
    assert plant.stats.completed.tolist() == [1, 0]
    assert np.isnan(plant.e2e_s[0])


def test_a_long_request_goes_where_it_fits() -> None:
    small = replace(PROFILE, kv_tokens=1000)
    source = ListSource(requests([0.0, 0.0, 0.0], prompt=2000, output=500), 1e9)
    plant = Plant([small, PROFILE], np.array([0, 1]), np.zeros(2, np.int8), source, {})
    plant.keep_record()
    plant.advance(0.5)
    assert plant.outstanding.tolist() == [0, 3]


@pytest.mark.parametrize("share", [0.01, 0.5, 0.93])
def test_a_cap_in_the_middle_of_a_prefill_slows_what_is_left(share: float) -> None:
    whole_s = prefill_s(2000)
    plant = plant_of(requests([0.0], prompt=2000, output=1))
    plant.advance(share * whole_s)
    plant.set_caps(np.array([0.5]), FREE_W)
    plant.advance(100.0)
    slow = latency.slowdown(0.5, PROFILE.prefill_clock_share)
    assert plant.ttft_s[0] == pytest.approx(whole_s * (share + (1.0 - share) * slow), rel=1e-12)


def test_a_cap_in_the_middle_of_a_decode_iteration_loses_no_token() -> None:
    plant = plant_of(requests([0.0], prompt=500, output=40))
    cut_s = prefill_s(500) + decode_s(1, 501) + decode_s(1, 502) + 0.3 * decode_s(1, 503)
    plant.advance(cut_s)
    plant.set_caps(np.array([0.6]), FREE_W)
    plant.advance(100.0)
    slow = latency.slowdown(0.6, PROFILE.decode_clock_share)
    left_s = 0.7 * decode_s(1, 503) + sum(decode_s(1, 500 + token) for token in range(4, 40))
    assert plant.e2e_s[0] == pytest.approx(cut_s + slow * left_s, rel=1e-12)
    assert plant.stats.generated_tokens[0] == 40


def test_a_cap_set_and_lifted_within_an_iteration_leaves_what_it_cost() -> None:
    plant = plant_of(requests([0.0], prompt=2000, output=1))
    plant.advance(0.05)
    plant.set_caps(np.array([0.5]), FREE_W)
    plant.advance(0.09)
    plant.set_caps(np.array([1.0]), FREE_W)
    plant.advance(100.0)
    slow = latency.slowdown(0.5, PROFILE.prefill_clock_share)
    assert plant.ttft_s[0] == pytest.approx(prefill_s(2000) + 0.04 - 0.04 / slow, rel=1e-12)


def test_a_clock_cap_lowers_what_each_phase_draws() -> None:
    plant = plant_of(requests([0.0], prompt=2000, output=40))
    plant.set_caps(np.array([0.6]), FREE_W)
    plant.advance(0.1)
    assert plant.take_mean_w()[0] == pytest.approx(prefill_w(2000, 0.6), rel=1e-12)
    plant.advance(1.0)
    plant.take_mean_w()
    plant.advance(1.1)
    assert plant.take_mean_w()[0] == pytest.approx(decode_w(0.6), rel=1e-12)


def test_a_power_limit_holds_each_phase_at_the_limit() -> None:
    limit_w = 330.0
    plant = plant_of(requests([0.0], prompt=2000, output=40))
    plant.set_caps(np.ones(1), np.array([limit_w]))
    plant.advance(0.1)
    assert plant.take_mean_w()[0] == pytest.approx(server_w(limit_w), rel=1e-12)
    plant.advance(1.5)
    plant.take_mean_w()
    plant.advance(1.6)
    assert plant.take_mean_w()[0] == pytest.approx(server_w(limit_w), rel=1e-12)
    assert plant.clock_ratio[0] < 1.0


def test_no_cap_takes_the_clock_below_its_floor_nor_power_below_idle() -> None:
    plant = plant_of(requests([0.0], prompt=2000, output=400))
    plant.set_caps(np.zeros(1), np.array([1.0]))
    assert plant.clock_ratio[0] == PROFILE.min_mhz / PROFILE.max_mhz
    plant.advance(20.0)
    assert plant.take_mean_w()[0] >= server_w(PROFILE.idle_w)


def test_targets_are_met_or_missed_per_request() -> None:
    slo = {"low": Slo(ttft_s=prefill_s(500) * 1.001, tpot_s=0.05)}
    plant = plant_of(requests([0.0, 10.0, 20.0], prompt=[500, 510, 500], output=[20, 20, 1]), slo=slo)
    plant.advance(100.0)
    assert plant.stats.good.tolist() == [2, 0]


def test_busy_tells_of_the_time_since_the_last_take_whether_read_before_or_after() -> None:
    plant = plant_of(requests([1.2], prompt=500, output=1), servers=2)
    seen = []
    for second in range(1, 5):
        plant.advance(float(second))
        before = plant.busy.tolist()
        plant.take_mean_w()
        assert plant.busy.tolist() == before
        seen.append(before)
    assert seen == [[False, False], [True, False], [False, False], [False, False]]


@pytest.mark.parametrize(
    "block",
    [
        requests([2.0, 1.0]),
        requests([np.nan]),
        requests([0.0], prompt=0),
        requests([0.0], output=0),
        requests([0.0], priority=2),
        requests([0.0], priority=-1),
    ],
)
def test_arrivals_that_break_their_contract_are_refused(block: Arrivals) -> None:
    with pytest.raises(InvariantViolated):
        plant_of(block).advance(1.0)


def test_the_plant_does_not_go_back_in_time() -> None:
    plant = plant_of(requests([]))
    plant.advance(5.0)
    with pytest.raises(InvariantViolated):
        plant.advance(4.0)


def test_a_profile_whose_iterations_take_no_time_is_refused() -> None:
    timeless = replace(PROFILE, decode_base_s=0.0, decode_per_request_s=0.0, decode_per_context_s=0.0)
    with pytest.raises(ConfigError, match="test server"):
        plant_of(requests([]), timeless)
