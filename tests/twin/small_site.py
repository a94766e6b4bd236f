"""A small site under a load made up of few requests, for tests of the closed loop and of whole jobs."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from sim_backend.closed_loop import ClosedLoop, RunSpec
from sim_backend.fleet import build_servers
from sim_backend.site import (
    IN_BAND,
    OUT_OF_BAND,
    Actuation,
    Breaker,
    Domain,
    Guarantee,
    ServerGroup,
    Site,
    Slo,
)
from tests.twin.plant_cases import ListSource, requests

A100 = "dgx-a100__bloom-176b"
FAILSAFE_W = 2_800.0
IDLE_W = 1_200.0 + 8 * 70.0
"""Of a server of this profile."""


def site_of(
    budget_w: float | None,
    actuation: Actuation = OUT_OF_BAND,
    guarantee: Guarantee = Guarantee.REACTIVE,
    servers: tuple[int, int] = (3, 3),
    **changes: object,
) -> Site:
    """One row of high-priority and low-priority servers; without a budget it is derived."""
    high, low = servers
    row = Domain("row", "row", None, budget_w, None if budget_w is not None else 0.79, Breaker())
    groups = (
        ServerGroup("row", A100, high, "high", FAILSAFE_W, 1_200.0),
        ServerGroup("row", A100, low, "low", FAILSAFE_W, 1_200.0),
    )
    slo = {"high": Slo(8.0, 0.15), "low": Slo(20.0, 0.30)}
    site = Site("small", guarantee, (row,), tuple(g for g in groups if g.count), actuation, slo)
    return replace(site, **changes)  # type: ignore[arg-type]


def hard_site(budget_w: float | None, servers: tuple[int, int] = (3, 3), **changes: object) -> Site:
    """The same in-band, under the hard guarantee."""
    return site_of(budget_w, IN_BAND, Guarantee.HARD, servers, **changes)


class WaveSource(ListSource):
    """Requests whose rate goes up and down: (seconds, requests per second) one after the other."""

    def __init__(self, waves: tuple[tuple[float, float], ...], seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        start_s, times = 0.0, []
        for length_s, rate_rps in waves:
            times.append(start_s + length_s * np.sort(rng.random(rng.poisson(rate_rps * length_s))))
            start_s += length_s
        arrival_s = np.concatenate(times)
        count = arrival_s.size
        arrivals = requests(
            arrival_s, rng.integers(500, 3_000, count), rng.integers(50, 400, count), rng.integers(0, 2, count)
        )
        super().__init__(arrivals, start_s, rows=100)


def loop_of(site: Site, policy: str, source: ListSource, add_pct: float = 0.0, seed: int = 1) -> ClosedLoop:
    """A closed loop that checks its invariants after every second."""
    spec = RunSpec(site, policy, site.guarantee, add_pct, seed, check_every=1)
    return ClosedLoop(spec, build_servers(site, add_pct), source)


def write_trace(path: Path, source: ListSource) -> Path:
    """The same requests as a recorded trace; its priorities are drawn anew."""
    rows = ["arrival_timestamp,prompt_size,token_size"]
    for block in source.blocks():
        columns = block.arrival_s.tolist(), block.prompt_tokens.tolist(), block.output_tokens.tolist()
        rows += [f"{t:.6f},{p},{o}" for t, p, o in zip(*columns, strict=True)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path
