"""Chunked prefill, prompt and token servers in the closed loop, and recorded work beside them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sim_backend.fleet import build_servers
from sim_backend.mixed_plant import MixedPlant, build_plant
from sim_backend.plant import Plant
from sim_backend.pools.pools import Pools
from sim_backend.recorded_load import Demand
from sim_backend.replay import ReplayJob, run_replay
from sim_backend.site import IN_BAND, RECORDED, Breaker, Domain, Guarantee, ServerGroup, Serving, Site
from tests.twin.plant_cases import ListSource, requests

PROFILE = "dgx-h100__llama-3.1-70b__vllm-0.10"
CHUNKED = Serving(batching="chunked", cached_share=0.3)
APART = Serving(kv_bytes_per_token=327_680.0)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two minutes, the first of them busy."""
    rng = np.random.default_rng(5)
    arrival_s = np.sort(np.concatenate([60.0 * rng.random(1500), 120.0 * rng.random(100)]))
    prompt, output = rng.integers(50, 5000, arrival_s.size), rng.integers(1, 200, arrival_s.size)
    path = tmp_path_factory.mktemp("pools") / "trace.csv"
    rows = [f"{1.0 + t:.6f},{p},{o}" for t, p, o in zip(arrival_s, prompt, output, strict=True)]
    path.write_text("arrival_timestamp,prompt_size,token_size\n" + "\n".join(rows) + "\n")
    return path


def site(serving: Serving, *roles: str, budget_w: float = 30_000.0) -> Site:
    """Six servers of the given roles, three of each, under one hard budget."""
    groups = tuple(
        ServerGroup("row", PROFILE, 6 // len(roles), priority, 4650.0, role=role)
        for role, priority in zip(roles, ("high", "low"), strict=False)
    )
    row = Domain("row", "row", None, budget_w, None, Breaker())
    return Site("pools", Guarantee.HARD, (row,), groups, IN_BAND, {}, serving=serving)


@pytest.mark.parametrize(("serving", "roles"), [(CHUNKED, ("mixed", "mixed")), (APART, ("prompt", "token"))])
@pytest.mark.parametrize("budget_w", [28_500.0, 36_000.0])
def test_pools_stay_inside_a_hard_budget_and_lose_no_request(
    serving: Serving, roles: tuple[str, ...], budget_w: float, trace: Path
) -> None:
    job = ReplayJob(site(serving, *roles, budget_w=budget_w), str(trace), ("polca",), ("hard",), (0.0,), check_every=1)
    (run,) = run_replay(job, lambda share, what: None).runs
    assert run.figures["peak_1s_over_budget"] <= 1.0  # type: ignore[operator]
    assert run.figures["brakes"] == 0
    counted = run.figures["requests"]
    for priority in ("high", "low"):
        there = sum(counted[state][priority] for state in ("completed", "in_flight", "rejected"))  # type: ignore[index]
        assert counted["arrived"][priority] == there  # type: ignore[index]
    assert sum(counted["completed"].values()) > 1_000  # type: ignore[index]


def test_each_site_gets_the_engine_that_it_needs() -> None:
    source = ListSource(requests([1.0]), 10.0)
    for serving, roles, kind in (
        (Serving(), ("mixed", "mixed"), Plant),
        (CHUNKED, ("mixed", "mixed"), Pools),
        (APART, ("prompt", "token"), Pools),
    ):
        place = site(serving, *roles)
        assert isinstance(build_plant(build_servers(place, 0.0), source, place, None), kind)


def test_recorded_work_beside_serving_keeps_each_server_s_own_watts() -> None:
    """Rows of the two kinds lie mixed; caps and watts go to the right ones."""
    place = site(Serving(), "mixed", RECORDED)
    place = replace(place, servers=(place.servers[1], place.servers[0]))
    servers = build_servers(place, 0.0)
    demand = Demand(np.array([[6_000.0, 6_001.0, 6_002.0]] * 10, np.float32), together=False)
    plant = build_plant(servers, ListSource(requests([0.5], 4000, 400), 10.0), place, demand)
    assert isinstance(plant, MixedPlant)
    plant.advance(1.0)
    idle_w = plant.take_mean_w()
    assert idle_w[:3] == pytest.approx([6_000.0, 6_001.0, 6_002.0])
    assert (idle_w[3:] < 5_000.0).all()
    plant.set_caps(np.array([0.5, 1.0, 1.0, 1.0, 1.0, 1.0]), np.array([np.inf, 300.0, np.inf, np.inf, np.inf, np.inf]))
    plant.advance(2.0)
    capped_w = plant.take_mean_w()
    assert (capped_w[:2] < 5_000.0).all()
    assert capped_w[2] == pytest.approx(6_002.0)
    assert plant.clock_ratio[0] == 0.5
    assert plant.busy[:3].all()
    assert plant.work_shares()[2] == 1.0
    assert plant.work_shares()[0] == pytest.approx(0.75)
