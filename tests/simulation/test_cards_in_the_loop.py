"""Servers put together from cards in the closed loop: limiters overshoot, fans lag, and the budget holds."""

from pathlib import Path

import numpy as np
import pytest

from policies import POLICIES
from sim_backend.replay import ReplayJob, run_replay
from sim_backend.site import IN_BAND, Breaker, Domain, Guarantee, ServerGroup, Site

PROFILE = "dgx-h100__llama-3.1-70b__vllm-0.10"
SERVERS = 6
LASTS_S = 240


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Waves of prompts: half a minute of all servers can take, half a minute of next to nothing."""
    rng = np.random.default_rng(11)
    waves = [(start, 900 if (start // 30) % 2 == 0 else 20) for start in range(0, LASTS_S, 30)]
    arrival_s = np.sort(np.concatenate([start + 30.0 * rng.random(count) for start, count in waves]))
    prompt, output = rng.integers(200, 6000, arrival_s.size), rng.integers(1, 300, arrival_s.size)
    path = tmp_path_factory.mktemp("waves") / "waves.csv"
    rows = [f"{1.0 + t:.6f},{p},{o}" for t, p, o in zip(arrival_s, prompt, output, strict=True)]
    path.write_text("arrival_timestamp,prompt_size,token_size\n" + "\n".join(rows) + "\n")
    return path


def site(budget_w: float) -> Site:
    """Three servers of each priority under one budget."""
    groups = tuple(ServerGroup("row", PROFILE, SERVERS // 2, priority, 4650.0) for priority in ("high", "low"))
    row = Domain("row", "row", None, budget_w, None, Breaker())
    return Site("cards", Guarantee.HARD, (row,), groups, IN_BAND, {})


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("budget_w", [SERVERS * 4_700.0, SERVERS * 5_500.0, SERVERS * 7_000.0])
def test_the_one_second_mean_stays_inside_a_hard_budget(policy: str, budget_w: float, storm: Path) -> None:
    job = ReplayJob(site(budget_w), str(storm), (policy,), ("hard",), (0.0,), seed=3, check_every=1)
    result = run_replay(job, lambda share, what: None)
    (run,) = result.runs
    assert run.figures["peak_1s_over_budget"] <= 1.0  # type: ignore[operator]
    assert (run.figures["brakes"], run.figures["breaker_trips"]) == (0, 0)
    # The budget binds: without caps the same waves would draw more.
    assert result.header["budget_derivation"]["uncapped_peak_over_budget"] > 1.0  # type: ignore[index]
