"""Our own rules: the compiled pools against plain Python, and what must hold whatever happens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.twin.pool_cases import Case, drawn_case

SEEDS = st.integers(0, 10_000)


@settings(max_examples=40)
@given(SEEDS)
def test_every_request_and_every_joule_is_as_with_one_event_per_iteration(seed):
    case = drawn_case(seed)
    twin = case.twin()
    asks = twin.run(case.rows)
    pools = case.pools()
    pools.drain()
    pools.take_mean_w()
    np.testing.assert_allclose(pools.ttft_s, [ask.ttft_s for ask in asks], rtol=0.0, atol=1e-7)
    np.testing.assert_allclose(pools.e2e_s, [ask.e2e_s for ask in asks], rtol=0.0, atol=1e-7)
    for engine in twin.engines:
        if engine.idle_since_s is not None:
            engine.energy_j += (pools.now_s - engine.idle_since_s) * engine.idle_w
    np.testing.assert_allclose(pools.energy_j, [engine.energy_j for engine in twin.engines], rtol=1e-9)


def stepped(case: Case, seed: int) -> tuple[float, np.ndarray]:
    """Run second by second under changing caps; joules taken, and the most KV tokens held."""
    pools = case.pools()
    servers = pools.servers
    draw = np.random.default_rng(seed)
    taken_j = 0.0
    most_held = np.zeros(servers, np.int64)
    while pools.now_s < case.rows[-1][0] + 1.0 or pools.in_flight.any():
        pools.set_caps(draw.uniform(0.1, 1.0, servers), draw.choice([np.inf, 300.0, 450.0], servers))
        pools.advance(pools.now_s + 1.0)
        taken_j += float(pools.take_mean_w().sum())
        most_held = np.maximum(most_held, pools.held_tokens)
        assert pools.now_s < 20_000.0
    total_j = float(pools.energy_j.sum())
    assert taken_j == pytest.approx(total_j, rel=1e-9)
    stats = pools.stats
    rows = case.rows
    assert stats.count("arrived").sum() == stats.count("completed").sum() == len(rows)
    assert stats.count("prompt_tokens").sum() == sum(prompt for _, prompt, _ in rows)
    assert stats.count("generated_tokens").sum() == sum(output for _, _, output in rows)
    assert stats.ttft_s.sum() == stats.e2e_s.sum() == len(rows)
    assert stats.tbt_s.sum() == sum(output - 1 for _, _, output in rows)
    assert not pools.held_tokens.any()
    assert not pools.outstanding.any()
    return total_j, most_held


@settings(max_examples=25)
@given(SEEDS)
def test_requests_tokens_memory_and_energy_are_conserved_under_changing_caps(seed):
    case = drawn_case(seed)
    _, most_held = stepped(case, seed)
    capacity = case.setup.kinds[0].kv_tokens
    assert np.all(most_held <= capacity)


@settings(max_examples=10)
@given(SEEDS)
def test_steps_in_one_compiled_loop_are_the_same_steps(seed):
    case = drawn_case(seed)
    one, other = case.pools(), case.pools()
    clocks = np.random.default_rng(seed).uniform(0.3, 1.0, (20, one.servers))
    together_w = one.run_schedule(clocks)
    for step, clock_ratio in enumerate(clocks):
        other.set_caps(clock_ratio, np.full(one.servers, np.inf))
        other.advance(step + 1.0)
        np.testing.assert_array_equal(other.take_mean_w(), together_w[step])
    np.testing.assert_array_equal(one.stats.counts, other.stats.counts)
