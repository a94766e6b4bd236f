"""Recorded work under caps: it draws less, goes on more slowly, and is not lost."""

from dataclasses import replace

import numpy as np
import pytest

from policies.models.gpu_power import clock_factor
from sim_backend.profile import Profile, load_profile
from sim_backend.recorded_load import Demand, RecordedLoad

PROFILE: Profile = replace(load_profile("dgx-h100__llama2-70b"), other_w=2000.0, gpus=8)
"""Non-GPU 2,000 W, idle GPUs 75 W."""
IDLE_W = 2000.0 + 8 * 75.0
FULL_W = 2000.0 + 8 * 600.0


def load(
    watts: list[list[float]], servers: int | None = None, *, together: bool = False, seed: int = 0
) -> RecordedLoad:
    server_w = np.array(watts, dtype=np.float32)
    count = server_w.shape[1] if servers is None else servers
    return RecordedLoad((PROFILE,), np.zeros(count, dtype=np.int64), Demand(server_w, together, seed))


def seconds(plant: RecordedLoad, count: int) -> np.ndarray:
    rows = []
    for _ in range(count):
        plant.advance(plant.now_s + 1.0)
        rows.append(plant.take_mean_w())
    return np.array(rows)


def test_uncapped_it_draws_what_was_recorded_and_begins_again() -> None:
    plant = load([[FULL_W], [IDLE_W], [3000.0]])
    assert seconds(plant, 6)[:, 0] == pytest.approx([FULL_W, IDLE_W, 3000.0] * 2)
    assert plant.work_share == pytest.approx([1.0])


def test_a_power_limit_holds_and_costs_time() -> None:
    plant = load([[FULL_W]] * 50 + [[IDLE_W]] * 50)
    plant.set_caps(np.ones(1), np.array([400.0]))
    drawn_w = seconds(plant, 60)[:, 0]
    assert drawn_w[:50] == pytest.approx(2000.0 + 8 * 400.0)
    ratio = plant.work_share[0]
    # The idle time is reached later than recorded, by the slowdown and no more.
    late = int(np.flatnonzero(drawn_w == pytest.approx(IDLE_W))[0]) if (drawn_w < 3000).any() else 60
    assert 50 < late <= 60
    assert ratio < 1.0
    factor = clock_factor(ratio, PROFILE.prefill_static_share, PROFILE.prefill_exponent)
    assert 600.0 * factor == pytest.approx(400.0, rel=1e-6)


def test_the_work_done_is_conserved_under_any_cap() -> None:
    """Energy above idle of the same work differs by the power law alone, whatever the order of caps."""
    plant = load([[FULL_W]] * 1000)
    plant.set_caps(np.array([0.5]), np.array([np.inf]))
    plant.advance(100.0)
    assert plant.work_share[0] == pytest.approx(0.5)
    plant.set_caps(np.ones(1), np.array([np.inf]))
    plant.advance(200.0)
    assert plant.work_share[0] == pytest.approx(0.75)


def test_a_job_is_as_fast_as_its_slowest_server() -> None:
    apart, together = load([[FULL_W, FULL_W]] * 10), load([[FULL_W, FULL_W]] * 10, together=True)
    for plant in (apart, together):
        plant.set_caps(np.array([0.5, 1.0]), np.full(2, np.inf))
        plant.advance(4.0)
    assert apart.work_share == pytest.approx([0.5, 1.0])
    assert together.work_share == pytest.approx([0.5, 0.5])


def test_added_servers_do_the_same_work_at_another_time_and_as_another_job() -> None:
    watts = [[FULL_W - 10.0 * k] for k in range(97)]
    plant = load(watts, servers=3, together=True, seed=3)
    drawn_w = seconds(plant, 97)
    assert drawn_w[:, 0] == pytest.approx([row[0] for row in watts])
    for added in (1, 2):
        assert sorted(drawn_w[:, added]) == pytest.approx(sorted(drawn_w[:, 0]))
        assert not np.allclose(drawn_w[:, added], drawn_w[:, 0])
    plant.set_caps(np.array([0.5, 1.0, 1.0]), np.full(3, np.inf))
    before = plant.work_share * plant.now_s
    plant.advance(plant.now_s + 10.0)
    assert plant.work_share * plant.now_s - before == pytest.approx([5.0, 10.0, 10.0])


def test_what_draws_no_gpu_watts_is_neither_capped_nor_slowed() -> None:
    plant = load([[1900.0]] * 5)
    plant.set_caps(np.array([0.2]), np.array([200.0]))
    assert seconds(plant, 5)[:, 0] == pytest.approx([1900.0] * 5)
    assert plant.work_share == pytest.approx([1.0])
    assert not plant.busy.any()


def test_no_cap_goes_below_the_lowest_clock() -> None:
    plant = load([[FULL_W]] * 5)
    plant.set_caps(np.array([np.nan]), np.array([1.0]))
    plant.advance(1.0)
    assert plant.clock_ratio == pytest.approx([PROFILE.min_mhz / PROFILE.max_mhz])


def test_the_same_energy_whatever_the_steps() -> None:
    fine, coarse = load([[FULL_W], [IDLE_W]]), load([[FULL_W], [IDLE_W]])
    for k in range(1, 41):
        fine.advance(k / 10.0)
    coarse.advance(4.0)
    assert fine.take_mean_w() == pytest.approx(coarse.take_mean_w())
