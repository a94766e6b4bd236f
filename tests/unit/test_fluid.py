"""The screening tier against what must hold for any plant, and against the request tier on small fleets."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from policies.errors import ConfigError
from policies.models.iteration import IterationModel, iteration
from sim_backend.arrivals import Arrivals
from sim_backend.fluid import Demand, FluidRun, RequestTypes, ServerClass, run_fluid
from sim_backend.iteration_tables import POINTS, tables_of
from sim_backend.plant import Plant
from sim_backend.profile import Profile, load_profile

PROFILE = load_profile("dgx-h100__bloom-176b")
IDLE_W = PROFILE.other_w + PROFILE.gpus * PROFILE.idle_w
FILLING_S = 120
MODEL = IterationModel(
    host_s=1e-3,
    host_per_request_s=2e-5,
    link_s=1e-3,
    link_per_token_s=1e-7,
    linear_compute_s=0.0,
    linear_compute_per_token_s=6e-5,
    linear_memory_s=np.full(2, 0.012),
    linear_memory_per_token_s=1e-6,
    attention_compute_per_pair_s=2e-10,
    attention_memory_per_context_s=4e-8,
    attention_compute_per_context_s=1e-9,
    overlap=0.8,
    memory_knee=0.5,
    gpus=8,
    idle_w=115.0,
    active_w=150.0,
    compute_w=300.0,
    memory_w=130.0,
    exponent=2.0,
)
MODELLED = replace(PROFILE, iteration=MODEL, limiter_s=0.1, max_batch_tokens=8_192)


class Load:
    """Poisson arrivals with lengths of every size, half of them low priority."""

    def __init__(self, rate_rps: float, seconds: int, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        count = rng.poisson(rate_rps * seconds)
        self.duration_s = float(seconds)
        self.requests = Arrivals(
            np.sort(rng.random(count)) * seconds,
            rng.integers(50, 2_500, count).astype(np.int32),
            np.minimum(1 + rng.exponential(150.0, count), 1_500.0).astype(np.int32),
            (rng.random(count) < 0.5).astype(np.int8),
        )

    def blocks(self) -> Iterator[Arrivals]:
        return iter([self.requests])


def two(servers: int, profile: Profile = PROFILE) -> list[ServerClass]:
    return [ServerClass(servers // 2, profile, 0), ServerClass(servers - servers // 2, profile, 1)]


def burst(count: int, seconds: int) -> Demand:
    """So many requests in the first second, then none."""
    types = RequestTypes.of(np.array([1_000]), np.array([100]))
    counts = np.zeros((seconds, 2, len(types.weight)), np.int32)
    counts[0, 1, types.index(np.array([1_000]), np.array([100]))[0]] = count
    return Demand(types, counts)


def exact_w(classes: list[ServerClass], load: Load, caps: np.ndarray, pack_to: int = 1) -> np.ndarray:
    """Row power of the request tier."""
    kind = np.repeat(np.arange(len(classes)), [each.count for each in classes])
    priority = np.array([each.priority for each in classes])[kind]
    plant = Plant([each.profile for each in classes], kind, priority, load, {}, pack_to=pack_to)
    return plant.run_schedule(caps[:, kind]).sum(axis=1)


def test_idle_servers_draw_idle_power():
    found = run_fluid([ServerClass(7, PROFILE, 1)], burst(0, 5))
    assert found.drawn_w == pytest.approx(np.full((5, 1), 7 * IDLE_W))
    assert not found.outstanding.any()


def test_one_request_takes_the_energy_that_its_parts_take():
    found = run_fluid([ServerClass(1, PROFILE, 1)], burst(1, 30))
    above_j = float((found.drawn_w - IDLE_W).sum())
    x = PROFILE
    prefill_s = x.prefill_base_s + 1_000 * x.prefill_per_token_s + 1e6 * x.prefill_per_token2_s
    decode_s = 99 * (x.decode_base_s + x.decode_per_request_s + 1_050 * x.decode_per_context_s)
    prefill_w, decode_w = x.prefill_ceiling * x.tdp_w, x.decode_ratio * x.tdp_w
    wanted_j = x.gpus * (prefill_s * (prefill_w - x.idle_w) + decode_s * (decode_w - x.idle_w))
    # One request alone is the coarsest case: what it does is spread over whole seconds.
    assert above_j == pytest.approx(wanted_j, rel=0.07)


@pytest.mark.parametrize("count", [1, 30, 4_000])
def test_all_that_came_is_served_in_the_end(count: int):
    found = run_fluid([ServerClass(4, PROFILE, 1)], burst(count, 1_200))
    assert found.outstanding[0, 0] == pytest.approx(count)
    assert found.outstanding[-1, 0] == pytest.approx(0.0, abs=1e-6)
    assert found.drawn_w[-1, 0] == pytest.approx(4 * IDLE_W)
    assert (np.diff(found.outstanding[:, 0]) <= 1e-6).all()


@pytest.mark.parametrize("profile", [PROFILE, MODELLED], ids=["affine", "modelled"])
@pytest.mark.parametrize("capped", [False, True])
@pytest.mark.parametrize("rate_rps", [2.0, 16.0])
def test_row_power_is_that_of_the_request_tier(profile: Profile, capped: bool, rate_rps: float):
    load, classes = Load(rate_rps, 1_500), two(16, profile)
    caps = np.ones((1_500, 2))
    if capped:
        caps[:, 0] = np.where(np.arange(1_500) // 50 % 2, 0.7, 1.0)
        caps[:, 1] = 0.85
    exact = exact_w(classes, load, caps)[FILLING_S:]
    found = run_fluid(classes, Demand.of_source(load), clock_ratio=caps).drawn_w.sum(axis=1)[FILLING_S:]
    assert found.mean() == pytest.approx(exact.mean(), rel=0.01)
    assert np.quantile(found, 0.99) == pytest.approx(np.quantile(exact, 0.99), rel=0.03)
    # Not only alike in distribution: the same seconds are the high ones.
    assert np.corrcoef(found, exact)[0, 1] > 0.7


def test_packed_servers_leave_others_idle_as_in_the_request_tier():
    # Of fewer servers hardly one is filled at a time, and a mean over classes says less: 2 % of the row at sixteen.
    load, classes = Load(10.0, 1_500), two(40)
    caps = np.ones((1_500, 2))
    exact = exact_w(classes, load, caps, pack_to=8)[FILLING_S:].mean()
    packed, even = (
        run_fluid(classes, Demand.of_source(load), pack_to=pack_to).drawn_w.sum(axis=1)[FILLING_S:].mean()
        for pack_to in (8, 1)
    )
    assert packed == pytest.approx(exact, rel=0.01)
    assert packed < 0.95 * even


def test_a_power_limit_is_kept_and_costs_time():
    load = Load(16.0, 600)
    limit_w = np.full((600, 2), 350.0)
    free, limited = (run_fluid(two(16), Demand.of_source(load), limit_w=limit) for limit in (None, limit_w))
    assert limited.drawn_w.max() <= 8 * (PROFILE.other_w + PROFILE.gpus * 350.0) + 1e-6
    assert limited.outstanding[300:].mean() > 1.1 * free.outstanding[300:].mean()


def test_a_class_split_in_two_is_the_same_row():
    demand = Demand.of_source(Load(16.0, 400))
    whole = run_fluid([ServerClass(16, PROFILE, 1)], demand)
    parts = run_fluid([ServerClass(12, PROFILE, 1), ServerClass(4, PROFILE, 1)], demand)
    assert parts.drawn_w.sum(axis=1).mean() == pytest.approx(whole.drawn_w.mean(), rel=5e-3)
    assert parts.drawn_w[:, 0].mean() == pytest.approx(3.0 * parts.drawn_w[:, 1].mean(), rel=0.01)


def test_too_much_load_waits_and_nothing_is_lost():
    load = Load(60.0, 600)
    found = run_fluid(two(16), Demand.of_source(load))
    assert found.waiting[-1].sum() > 1_000
    assert (found.outstanding >= found.waiting - 1e-9).all()
    short = FluidRun(found.drawn_w[:300], found.outstanding[:300], found.waiting[:300])
    assert short.waiting[-1].sum() < found.waiting[-1].sum()
    assert found.drawn_w.sum(axis=1).max() <= 16 * (PROFILE.other_w + PROFILE.gpus * PROFILE.tdp_w) + 1e-6


def test_same_input_same_bytes():
    demand = Demand.of_source(Load(16.0, 100))
    first, second = (run_fluid(two(16), demand).drawn_w for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_types_keep_the_totals():
    requests = Load(20.0, 300).requests
    types = RequestTypes.of(requests.prompt_tokens, requests.output_tokens)
    assert types.weight.sum() == pytest.approx(1.0)
    assert types.weight @ types.prompt_tokens == pytest.approx(requests.prompt_tokens.mean())
    assert types.weight @ types.output_tokens == pytest.approx(requests.output_tokens.mean())
    assert types.weight @ types.prompt_square == pytest.approx((requests.prompt_tokens.astype(float) ** 2).mean())
    assert (types.output_tokens - types.output_spread >= 1.0 - 1e-9).all()


def test_counts_are_the_requests():
    load = Load(20.0, 50)
    demand = Demand.of_source(load)
    assert demand.counts.sum() == len(load.requests)
    of_high = load.requests.priority == 1
    seconds = load.requests.arrival_s[of_high].astype(int)
    assert demand.counts[:, 1].sum(axis=1).tolist() == np.bincount(seconds, minlength=50).tolist()


def test_totals_of_a_second_are_enough():
    load = Load(16.0, 1_000)
    requests = load.requests
    cell = requests.arrival_s.astype(int) * 2 + requests.priority

    def total(weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(cell, weights=weights, minlength=2_000).reshape(1_000, 2)

    demand = Demand.of_totals(total(), total(requests.prompt_tokens), total(requests.output_tokens))
    assert demand.counts.sum() == len(requests)
    known, told = (
        run_fluid(two(16), each).drawn_w.sum(axis=1)[FILLING_S:] for each in (Demand.of_source(load), demand)
    )
    assert told.mean() == pytest.approx(known.mean(), rel=0.01)
    assert np.quantile(told, 0.99) == pytest.approx(np.quantile(known, 0.99), rel=0.03)


def test_a_rate_draws_its_requests():
    types = RequestTypes.of(np.array([100, 200, 300]), np.array([10, 20, 30]))
    rate_rps = np.stack([np.full(5_000, 3.0), np.zeros(5_000)], axis=1)
    demand = Demand.of_rate(rate_rps, types, 7)
    assert demand.counts[:, 0].sum() == pytest.approx(15_000, rel=0.03)
    assert not demand.counts[:, 1].any()
    assert (Demand.of_rate(rate_rps, types, 7).counts == demand.counts).all()


def test_tables_are_the_model_at_their_points_and_near_it_between():
    types = np.array([[1_000.0, 1.2e6, 200.0, 0.0]])
    axes, decode, prompt = tables_of([MODELLED, PROFILE, MODELLED], types, np.ones(1))
    clocks, batches, contexts = axes[0]
    at = iteration(MODEL, batches[9], batches[9], 0.0, batches[9] * contexts[7], clocks[11])
    assert decode[0, 11, 9, 7].tolist() == [at.lasts_s, at.gpu_w]
    together = iteration(MODEL, 2.0, 2_000.0, 2 * 0.5 * (1.2e6 + 1_000.0), 0.0, clocks[-1])
    assert prompt[0, 0, 1, POINTS - 1, 0].tolist() == [together.lasts_s, together.gpu_w]
    assert not decode[1].any()
    assert (decode[2] == decode[0]).all()
    middle = [0.5 * (axis[9] + axis[10]) for axis in (clocks, batches, contexts)]
    between = iteration(MODEL, middle[1], middle[1], 0.0, middle[1] * middle[2], middle[0])
    assert decode[0, 9:11, 9:11, 9:11, 0].mean() == pytest.approx(between.lasts_s, rel=0.02)


def test_what_cannot_be_run_is_one_line():
    types = RequestTypes.of(np.array([60_000]), np.array([10]))
    too_long = Demand(types, np.ones((3, 2, len(types.weight)), np.int32))
    with pytest.raises(ConfigError, match="never fit into its KV cache of 55803 tokens"):
        run_fluid(two(4), too_long)
    with pytest.raises(ConfigError, match="at least one request"):
        RequestTypes.of(np.array([]), np.array([]))
