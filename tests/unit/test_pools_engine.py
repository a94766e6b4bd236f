"""Pools against what can be worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from policies.errors import ConfigError, InvariantViolated
from policies.models import latency
from policies.models.iteration import iteration
from sim_backend.pools import layout
from sim_backend.pools.kinds import Kind, SpeedTable, kind_of_profile
from sim_backend.pools.pools import Pools
from sim_backend.pools.semantics import PEER
from sim_backend.pools.setup import KvLink, Setup
from sim_backend.site import Slo
from tests.twin.peer_cases import Listed
from tests.twin.pool_cases import AFFINE, MODEL, PROFILE, TWO_RESOURCES

LINK = KvLink(kv_bytes_per_token=1e6, bytes_per_s=1e9, latency_s=0.25)
"""A second for a thousand tokens."""
FREE_W = np.array([np.inf])


def prefill_s(tokens: int) -> float:
    return latency.prefill_s(
        float(tokens), PROFILE.prefill_base_s, PROFILE.prefill_per_token_s, PROFILE.prefill_per_token2_s
    )


def decodes_s(prompt: int, output: int) -> float:
    return sum(
        latency.decode_s(
            1.0,
            float(prompt + token),
            PROFILE.decode_base_s,
            PROFILE.decode_per_request_s,
            PROFILE.decode_per_context_s,
        )
        for token in range(1, output)
    )


def run(setup: Setup, rows: list[tuple[float, int, int]]) -> Pools:
    pools = Pools(setup, Listed(rows))
    pools.keep_record()
    pools.drain()
    return pools


def one(kind: Kind = AFFINE, **others: object) -> Setup:
    return Setup([kind], [0], ["mixed"], **others)  # type: ignore[arg-type]


def two(kind: Kind = AFFINE, link: KvLink = LINK) -> Setup:
    return Setup([kind], [0, 0], ["prompt", "token"], link)


def small(**sizes: float) -> Kind:
    return replace(AFFINE, **sizes)  # type: ignore[arg-type]


def test_a_request_alone_takes_its_prefill_and_its_decodes():
    pools = run(one(), [(3.0, 700, 150)])
    assert pools.ttft_s[0] == pytest.approx(prefill_s(700), rel=1e-12)
    assert pools.e2e_s[0] == pytest.approx(prefill_s(700) + decodes_s(700, 150), rel=1e-12)


def test_a_long_prompt_pays_the_base_for_each_chunk_and_its_work_once():
    whole = run(one(small(max_batch_tokens=4000)), [(0.0, 1000, 1)])
    chunked = run(one(small(max_batch_tokens=300)), [(0.0, 1000, 1)])
    extra_s = 3 * PROFILE.prefill_base_s
    assert chunked.ttft_s[0] == pytest.approx(whole.ttft_s[0] + extra_s, rel=1e-9)


def test_decodes_go_on_while_a_prompt_is_prefilled_in_chunks():
    """With a small budget the running request never waits for the whole prompt."""
    worst_s = {}
    for budget in (256, 8192):
        pools = run(one(small(max_batch_tokens=budget)), [(0.0, 100, 400), (1.0, 6000, 2)])
        filled = np.flatnonzero(pools.stats.tbt_s.sum(axis=0))
        worst_s[budget] = filled[-1]
        assert pools.in_flight.sum() == 0
    assert worst_s[256] < worst_s[8192]


def test_a_prefix_cache_leaves_its_share_of_the_prompt_undone():
    cached = run(one(cached_share=0.5), [(0.0, 1000, 1)])
    full = prefill_s(500) + 2.0 * PROFILE.prefill_per_token2_s * 500.0 * 500.0
    assert cached.ttft_s[0] == pytest.approx(full, rel=1e-12)
    assert cached.stats.count("cached_tokens")[0] == 500
    assert cached.stats.count("prompt_tokens")[0] == 1000


def test_a_request_that_decodes_elsewhere_waits_for_its_kv_cache():
    pools = run(two(), [(0.0, 700, 150)])
    transfer_s = 0.7 + 0.25
    assert pools.ttft_s[0] == pytest.approx(prefill_s(700), rel=1e-12)
    assert pools.e2e_s[0] == pytest.approx(prefill_s(700) + transfer_s + decodes_s(700, 150), rel=1e-12)
    assert pools.transfers == 1


def test_transfers_over_one_link_follow_each_other():
    """Two prompts wait for a third and end together; the second cache waits for the first to leave."""
    rows = [(0.0, 1500, 1), (0.001, 500, 2), (0.001, 500, 2)]
    pools = run(two(), rows)
    assert pools.ttft_s[1] == pools.ttft_s[2]
    assert pools.e2e_s[2] - pools.e2e_s[1] == pytest.approx(0.5, rel=1e-9)
    pools = run(replace(two(), rules=replace(one().rules, link="endless")), rows)
    assert pools.e2e_s[2] - pools.e2e_s[1] < 0.1


def test_a_cache_without_room_at_its_end_waits_where_it_is():
    """Room for one decode only: the second moves when the first has ended, and holds the prompt server until then."""
    kind = small(kv_tokens=1200.0)
    pools = run(two(kind, KvLink(1.0, 1e9)), [(0.0, 500, 400), (0.0, 500, 400)])
    assert pools.e2e_s[1] > pools.e2e_s[0] + decodes_s(500, 400)
    assert pools.in_flight.sum() == 0


def test_what_no_server_can_hold_is_rejected():
    pools = run(one(small(kv_tokens=1000.0)), [(0.0, 900, 200), (0.0, 900, 50)])
    assert pools.stats.count("rejected")[0] == 1
    assert np.isnan(pools.e2e_s[0])
    pools = run(two(small(kv_tokens=1000.0)), [(0.0, 900, 200), (0.0, 900, 50)])
    assert pools.stats.count("rejected")[0] == 1


def test_two_resources_take_and_draw_what_the_model_says():
    pools = run(one(TWO_RESOURCES), [(0.0, 300, 2)])
    first, second = iteration(MODEL, 1, 300, 300 * 301 / 2, 0), iteration(MODEL, 1, 1, 0, 301)
    assert pools.ttft_s[0] == pytest.approx(first.lasts_s, rel=1e-12)
    assert pools.e2e_s[0] == pytest.approx(first.lasts_s + second.lasts_s, rel=1e-12)
    pools.take_mean_w()
    drawn_j = sum(each.lasts_s * (900.0 + 4 * each.gpu_w) for each in (first, second))
    assert pools.energy_j[0] == pytest.approx(drawn_j, rel=1e-12)


def test_pipeline_stages_share_the_requests():
    pools = run(one(replace(TWO_RESOURCES, stages=2)), [(0.0, 300, 2)])
    half = iteration(MODEL, 0.5, 150, 300 * 301 / 4, 0)
    assert pools.ttft_s[0] == pytest.approx(2 * half.lasts_s, rel=1e-12)


@pytest.mark.parametrize(("kind", "limit_w"), [(AFFINE, 400.0), (TWO_RESOURCES, 250.0)])
def test_a_power_limit_is_kept_by_the_clock(kind: Kind, limit_w: float):
    pools = Pools(one(kind), Listed([(0.0, 8000, 3000)]))
    pools.set_caps(np.ones(1), np.array([limit_w]))
    slowest = 1.0
    for second in range(1, 30):
        pools.advance(float(second))
        assert pools.take_mean_w()[0] <= (kind.other_w + kind.gpus * limit_w) * (1.0 + 1e-4)
        slowest = min(slowest, float(pools.clock_ratio[0]))
    assert slowest < 0.95


def test_a_limit_that_no_clock_keeps_gives_the_lowest_clock():
    pools = Pools(one(), Listed([(0.0, 8000, 300)]))
    pools.set_caps(np.ones(1), np.array([1.0]))
    pools.advance(1.0)
    assert pools.clock_ratio[0] == AFFINE.min_clock_ratio


def test_a_cap_in_the_middle_stretches_what_is_left():
    free, capped = Pools(one(), Listed([(0.0, 2000, 1)])), Pools(one(), Listed([(0.0, 2000, 1)]))
    for pools in (free, capped):
        pools.keep_record()
    half_s = 0.5 * prefill_s(2000)
    capped.advance(half_s)
    capped.set_caps(np.array([0.5]), FREE_W)
    free.drain()
    capped.drain()
    slow = latency.slowdown(0.5, PROFILE.prefill_clock_share)
    assert capped.ttft_s[0] == pytest.approx(half_s + slow * half_s, rel=1e-9)
    assert free.ttft_s[0] == pytest.approx(2.0 * half_s, rel=1e-12)


def test_a_lower_batch_limit_makes_requests_wait():
    rows = [(0.0, 10, 50)] * 4
    together, apart = run(one(), rows), run(one(small(max_batch=2)), rows)
    assert together.e2e_s.max() < apart.e2e_s.max()
    assert together.outstanding[0] == 0


def test_good_requests_are_counted_by_priority():
    pools = Pools(one(), Listed([(0.0, 700, 10), (100.0, 700, 10)]), {"low": Slo(ttft_s=1e-6, tpot_s=10.0)})
    pools.drain()
    assert pools.stats.count("good").tolist() == [0, 0]
    pools = Pools(one(), Listed([(0.0, 700, 10), (100.0, 700, 10)]), {"low": Slo(ttft_s=10.0, tpot_s=10.0)})
    pools.drain()
    assert pools.stats.count("good").tolist() == [2, 0]


def test_busy_servers_are_those_that_worked_since_the_last_take():
    pools = Pools(Setup([AFFINE], [0, 0], ["mixed"] * 2), Listed([(0.5, 100, 2)]))
    pools.advance(1.0)
    pools.take_mean_w()
    assert pools.busy.tolist() == [True, False]
    pools.advance(2.0)
    assert pools.busy.tolist() == [False, False]


def test_memory_grows_with_what_is_in_flight():
    """More requests at once than there is room for at the start, under both batchings."""
    rows = [(0.0, 5, 3)] * 3000
    assert run(one(), rows).stats.count("completed")[0] == 3000
    table = SpeedTable(np.array([1.0, 100.0]), np.array([0.01, 0.02]), np.array([0.01, 0.02]))
    kind = Kind(name="table", kv_tokens=1e9, max_batch=64, max_batch_tokens=2048, table=table)
    assert run(one(kind, rules=PEER), [(1.0, 5, 3)] * 3000).stats.count("completed")[0] == 3000


def test_the_names_of_the_parameters_are_where_the_compiled_code_looks():
    for name, place in {"exponent": layout.P_EXPONENT, "prompt_s": layout.P_PROMPT_S, "tdp_w": layout.P_TDP_W}.items():
        assert layout.PARAMS[place] == name
    assert layout.NPARAM == layout.P_VOLTAGE_FLOOR + 1
    for name in ("kv_tokens", "table_len", "decode_clock_share", "decode_exponent", "overlap", "window_share"):
        assert layout.PARAMS[getattr(layout, f"P_{name.upper()}")] == name
    assert layout.COUNTERS[layout.N_CACHED] == "cached_tokens"


def test_impossible_servers_are_refused():
    with pytest.raises(ConfigError, match="profile, a table or an iteration model"):
        Kind(name="x", kv_tokens=1.0, max_batch=1, max_batch_tokens=1)
    with pytest.raises(ConfigError, match="must be positive"):
        small(kv_tokens=0.0)
    with pytest.raises(ConfigError, match="takes no time"):
        kind_of_profile(
            replace(PROFILE, prefill_base_s=0.0, prefill_per_token_s=0.0, decode_base_s=0.0, name="timeless")
        )


def test_time_runs_forward_only():
    pools = Pools(one(), Listed([(5.0, 10, 2)]))
    pools.advance(2.0)
    with pytest.raises(InvariantViolated, match="cannot advance"):
        pools.advance(1.0)
    pools.take_mean_w()
    with pytest.raises(InvariantViolated, match="no time has passed"):
        pools.take_mean_w()
    pools.drain()
    with pytest.raises(InvariantViolated, match="first request"):
        pools.keep_record()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(2.0, 10, 2), (1.0, 10, 2)], "not in order"),
        ([(1.0, 0, 2)], "without tokens"),
    ],
)
def test_bad_arrivals_are_our_own_bug(rows: list[tuple[float, int, int]], words: str):
    pools = Pools(one(), Listed(rows))
    with pytest.raises(InvariantViolated, match=words):
        pools.advance(10.0)
