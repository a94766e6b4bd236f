"""Each rule as a switch: what it changes, and which of them need each other."""

from dataclasses import replace

import numpy as np
import pytest

from policies.errors import ConfigError, DataError
from sim_backend.pools.kinds import Kind
from sim_backend.pools.pools import Pools
from sim_backend.pools.semantics import DEFAULT, PEER, Semantics
from sim_backend.pools.setup import KvLink, Setup
from tests.twin.peer_cases import TABLES, Listed

KIND = Kind(name="table", kv_tokens=100_000.0, max_batch=512, max_batch_tokens=2048, table=TABLES[0])
LINK = KvLink(1.0, 2e4)
POOLED = ["prompt", "prompt", "token", "token"]
OURS_ON_TABLES = replace(DEFAULT, max_batch=512, max_batch_tokens=2048)


def times(rules: Semantics, rows: list[tuple[float, int, int]], roles: list[str], kind: Kind = KIND) -> np.ndarray:
    link = LINK if "token" in roles else None
    pools = Pools(Setup([kind], [0] * len(roles), roles, link, rules), Listed(rows))
    pools.keep_record()
    pools.drain()
    return np.column_stack((pools.ttft_s, pools.e2e_s))


def burst(count: int, prompt: int, output: int, gap_s: float = 0.01) -> list[tuple[float, int, int]]:
    return [(1.0 + gap_s * index, prompt, output) for index in range(count)]


def test_decode_key_batch_and_context_slow_the_decodes():
    rows = burst(40, 100, 300)
    by_requests = times(PEER, rows, ["mixed"])
    by_context = times(replace(PEER, decode_key="context"), rows, ["mixed"])
    assert by_context[-1, 1] > by_requests[-1, 1] * 1.05


def test_mixed_factor_is_the_price_of_prompts_beside_decodes():
    rows = [(1.0, 100, 200), (2.0, 1000, 2)]
    ttft_s = [times(replace(PEER, mixed_factor=factor), rows, ["mixed"])[1, 0] for factor in (1.1, 2.0)]
    assert ttft_s[1] > ttft_s[0] * 1.5


def test_kv_as_used_can_stop_for_ever_and_whole_cannot():
    """Two prompts fill the memory; neither has room for its answer."""
    rows = [(1.0, 450, 200), (1.0, 450, 200)]
    kind = replace(KIND, kv_tokens=1000.0)
    assert np.isnan(times(PEER, rows, ["mixed"], kind)[:, 1]).all()
    assert not np.isnan(times(replace(PEER, kv="whole"), rows, ["mixed"], kind)).any()


def test_router_counts_requests_or_tokens():
    """A long prompt weighs like one request, or like its tokens."""
    rows = [(1.0, 3000, 400), (1.001, 100, 400), (1.002, 100, 400)]
    by_tokens = times(PEER, rows, ["mixed", "mixed"])
    by_requests = times(replace(PEER, router="outstanding", pool_moves=False), rows, ["mixed", "mixed"])
    assert by_requests[2, 0] > by_tokens[2, 0]


def test_pool_moves_relieve_a_full_prompt_pool():
    rows = burst(80, 2000, 3, gap_s=0.001)
    moved = times(PEER, rows, POOLED)
    fixed = times(replace(PEER, pool_moves=False), rows, POOLED)
    assert moved[:, 0].max() < fixed[:, 0].max()


def test_link_of_its_own_or_shared():
    rows = burst(10, 1000, 3, gap_s=0.001)
    rules = replace(PEER, kv="whole", pool_moves=False, second_choice="after_prefill")
    endless = times(rules, rows, POOLED)
    shared = times(replace(rules, link="shared"), rows, POOLED)
    assert shared[:, 1].max() > endless[:, 1].max() + 0.05


def test_second_choice_after_prefill_does_not_wait_whole_seconds():
    rows = burst(6, 400, 30, gap_s=0.001)
    kind = replace(KIND, kv_tokens=900.0)
    rules = replace(PEER, kv="whole", pool_moves=False)
    at_arrival = times(rules, rows, ["prompt", "token"], kind)
    after = times(replace(rules, second_choice="after_prefill"), rows, ["prompt", "token"], kind)
    assert after[:, 1].max() < at_arrival[:, 1].max()


def test_batching_in_chunks_keeps_decodes_going():
    rows = [(1.0, 100, 100), (2.0, 8000, 2)]
    whole = times(replace(OURS_ON_TABLES, batching="whole_prompts"), rows, ["mixed"])
    chunked = times(replace(OURS_ON_TABLES, max_batch_tokens=512), rows, ["mixed"])
    assert chunked[1, 0] != whole[1, 0]


def test_events_of_the_same_time_are_ordered_by_the_heap_or_by_arrival():
    """`heapq` shuffles equal arrivals; by arrival they queue as they came."""
    rows = [(1.0, 1500, 2)] * 6
    heap = times(PEER, rows, ["mixed"])
    ordered = times(replace(PEER, events="servers_first"), rows, ["mixed"])
    assert ordered[:, 0].tolist() == sorted(ordered[:, 0])
    assert heap[:, 0].tolist() != sorted(heap[:, 0])
    assert sorted(heap[:, 0]) == pytest.approx(sorted(ordered[:, 0]))


@pytest.mark.parametrize(
    ("base", "change", "words"),
    [
        (PEER, {"router": "random"}, "is none of"),
        (PEER, {"batching": "chunked"}, "needs kv"),
        (PEER, {"router": "outstanding", "pool_moves": True, "second_choice": "after_prefill"}, "pool_moves needs"),
        (PEER, {"second_choice": "after_prefill", "pool_moves": False}, 'needs kv = "whole"'),
        (DEFAULT, {"second_choice": "at_arrival"}, "after_prefill"),
        (DEFAULT, {"mixed_factor": -1.0}, "must not be negative"),
        (DEFAULT, {"retry_s": 0.0}, "retry_s positive"),
    ],
)
def test_rules_that_cannot_go_together_are_refused(base: Semantics, change: dict[str, object], words: str):
    with pytest.raises(ConfigError, match=words):
        replace(base, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"role": ["mixed"]}, "one role"),
        ({"role": ["mixed", "both"]}, "roles are"),
        ({"role": ["mixed", "token"]}, "needs a token pool"),
        ({"role": ["prompt", "token"]}, "need a link"),
        ({"cached_share": 1.0}, "cached_share"),
        ({"cached_share": 0.5, "rules": PEER}, "whole prompts"),
        ({"link": KvLink(0.0, 1.0)}, "must be positive"),
    ],
)
def test_setups_that_make_no_sense_are_refused(change: dict[str, object], words: str):
    setup = Setup([KIND], [0, 0], ["mixed", "mixed"])
    with pytest.raises(ConfigError, match=words):
        replace(setup, **change)  # type: ignore[arg-type]


def test_mixed_servers_beside_pools_need_our_router():
    roles = ["mixed", "prompt", "token"]
    rules = replace(PEER, pool_moves=False)
    with pytest.raises(ConfigError, match="mixed servers beside pools"):
        Setup([KIND], [0] * 3, roles, LINK, rules)
    assert not np.isnan(times(OURS_ON_TABLES, burst(30, 500, 20), roles)).any()


def test_an_answer_of_one_token_breaks_the_published_rules_and_says_so():
    """There its decode ends in no time at all, and the event of those that go on cannot be moved any more."""
    rows = [(1.0, 1500, 1), (1.0, 10, 50), (1.0, 10, 50), (1.3, 10, 50), (1.35, 10, 50), (1.4, 10, 9)]
    with pytest.raises(DataError, match="one token"):
        times(PEER, rows, ["prompt", "prompt", "token"])
    assert not np.isnan(times(OURS_ON_TABLES, rows, ["prompt", "prompt", "token"])).any()
