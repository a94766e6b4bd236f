"""The compiled plant does what the slow, obvious one does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim_backend import histogram
from sim_backend.plant import Plant
from sim_backend.site import Slo
from tests.twin.engine_twin import TwinPlant
from tests.twin.plant_cases import MODELLED, PROFILE, REGULATED, TIGHT, ListSource, random_requests, twin_of

SLO = {"low": Slo(ttft_s=0.9, tpot_s=0.0613), "high": Slo(ttft_s=0.4, tpot_s=0.0471)}


def random_caps(rng: np.random.Generator, servers: int) -> tuple[np.ndarray, np.ndarray]:
    clock_ratio = np.where(rng.random(servers) < 0.6, rng.uniform(0.05, 1.0, servers), 1.0)
    limit_w = np.where(rng.random(servers) < 0.5, rng.uniform(80.0, 750.0, servers), np.inf)
    return clock_ratio, limit_w


@settings(max_examples=120)
@given(
    seed=st.integers(0, 2**32 - 1),
    servers=st.integers(1, 5),
    load=st.tuples(st.integers(0, 60), st.sampled_from([0.005, 0.05, 0.3, 2.0])),
    steps=st.integers(1, 25),
    fleet=st.sampled_from(["wide", "tight", "both", "regulated", "all"]),
    pack_to=st.sampled_from([1, 1, 2, 4]),
)
def test_compiled_plant_equals_its_twin(
    seed: int, servers: int, load: tuple[int, float], steps: int, fleet: str, pack_to: int
) -> None:
    rng = np.random.default_rng(seed)
    kinds = {"wide": [0], "tight": [1], "both": [0, 1], "regulated": [2], "all": [0, 1, 2]}[fleet]
    sku = rng.choice(kinds, servers)
    priority = rng.integers(0, 2, servers)
    count, mean_gap_s = load
    arrivals = random_requests(rng, count, mean_gap_s, 900)
    profiles = [PROFILE, TIGHT, REGULATED]
    plant = Plant(profiles, sku, priority, ListSource(arrivals, 1e9), SLO, pack_to=pack_to)
    plant.keep_record()
    twin = twin_of(arrivals, [profiles[i] for i in sku], priority)
    twin.pack_to = pack_to
    now_s = 0.0
    for _ in range(steps):
        caps = random_caps(rng, servers)
        plant.set_caps(*caps)
        twin.set_caps(caps[0].tolist(), caps[1].tolist())
        assert plant.clock_ratio == pytest.approx([s.decode_clock() for s in twin.servers], rel=1e-12)
        now_s += rng.exponential(1.5)
        plant.advance(now_s)
        twin.advance(now_s)
        assert plant.take_mean_w() == pytest.approx(twin.take_mean_w(), rel=1e-9)
        assert plant.outstanding.tolist() == [s.outstanding for s in twin.servers]
    # Without limits nothing steps ten times a second until all is done.
    free = np.ones(servers), np.full(servers, np.inf)
    plant.set_caps(*free)
    twin.set_caps(free[0].tolist(), free[1].tolist())
    plant.advance(1e5)
    twin.advance(1e5)
    assert plant.take_mean_w() == pytest.approx(twin.take_mean_w(), rel=1e-9)
    assert plant.ttft_s == pytest.approx([r.ttft_s for r in twin.requests], rel=1e-9, nan_ok=True)
    assert plant.e2e_s == pytest.approx([r.e2e_s for r in twin.requests], rel=1e-9, nan_ok=True)
    for code in (0, 1):
        same_statistics(plant, twin, code)


def same_statistics(plant: Plant, twin: TwinPlant, code: int) -> None:
    name = ("low", "high")[code]
    mine = [r for r in twin.requests if r.priority == code]
    done = [r for r in twin.completed if r.priority == code]
    assert plant.stats.arrived[code] == len(mine)
    assert plant.stats.completed[code] == len(done)
    assert plant.stats.rejected[code] == sum(r.priority == code for r in twin.rejected)
    assert plant.stats.prompt_tokens[code] == sum(r.prompt for r in done)
    assert plant.stats.generated_tokens[code] == sum(r.output for r in done)
    good = [r for r in done if r.ttft_s <= SLO[name].ttft_s and r.e2e_s - r.ttft_s <= SLO[name].tpot_s * (r.output - 1)]
    assert plant.stats.good[code] == len(good)
    gaps_s = [gap for r in done for gap in r.gaps_s]
    assert plant.stats.tbt_s[code].sum() == len(gaps_s)
    if gaps_s:
        assert histogram.mean_s(plant.stats.tbt_s[code]) == pytest.approx(np.mean(gaps_s), rel=1e-3)
    for counts, values in (
        (plant.stats.ttft_s[code], [r.ttft_s for r in done]),
        (plant.stats.e2e_s[code], [r.e2e_s for r in done]),
    ):
        expected = np.bincount([histogram.bin_index(v) for v in values], minlength=histogram.BINS)
        # A value at the edge of a bin may fall to either side.
        assert np.abs(np.cumsum(counts) - np.cumsum(expected)).max() <= 1


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    servers=st.integers(1, 4),
    load=st.tuples(st.integers(1, 60), st.sampled_from([0.005, 0.05, 0.3])),
    steps=st.integers(1, 15),
)
def test_under_an_iteration_model_the_plant_equals_its_twin(
    seed: int, servers: int, load: tuple[int, float], steps: int
) -> None:
    rng = np.random.default_rng(seed)
    arrivals = random_requests(rng, *load, 900)
    sku, priority = rng.integers(0, 2, servers), rng.integers(0, 2, servers)
    profiles = [MODELLED, PROFILE]
    plant = Plant(profiles, sku, priority, ListSource(arrivals, 1e9), SLO)
    plant.keep_record()
    twin = twin_of(arrivals, [profiles[i] for i in sku], priority)
    energy_j = np.zeros((2, servers))
    for step in range(steps):
        caps = random_caps(rng, servers)[0], np.full(servers, np.inf)
        plant.set_caps(*caps)
        twin.set_caps(caps[0].tolist(), caps[1].tolist())
        # Long enough now and then for a run to end as it was planned.
        elapsed_s = rng.exponential(1.5) if step % 3 else 5.0
        plant.advance(plant.now_s + elapsed_s)
        twin.advance(plant.now_s)
        mean_w = plant.take_mean_w(), np.array(twin.take_mean_w())
        # Within a run of decodes the plant draws the mean of the run.
        assert mean_w[0] == pytest.approx(mean_w[1], rel=0.02)
        energy_j += np.array(mean_w) * elapsed_s
        assert plant.outstanding.tolist() == [s.outstanding for s in twin.servers]
    plant.advance(1e4)
    twin.advance(1e4)
    assert energy_j[0] == pytest.approx(energy_j[1], rel=5e-3)
    assert plant.ttft_s == pytest.approx([r.ttft_s for r in twin.requests], rel=1e-9, nan_ok=True)
    assert plant.e2e_s == pytest.approx([r.e2e_s for r in twin.requests], rel=1e-9, nan_ok=True)
    for code in (0, 1):
        same_statistics(plant, twin, code)
