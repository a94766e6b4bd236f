"""The built-in load: its mix, its days and weeks, its bursts, and that every hour stands alone."""

import time
import tracemalloc
from dataclasses import fields, replace

import numpy as np
import pytest

from policies.errors import ConfigError
from sim_backend.arrivals import Arrivals
from sim_backend.result import Vec
from sim_backend.six_weeks import HOUR_S, SixWeeks, SixWeeksParams, Span

DAY = Span(days=1.0)
CALM = SixWeeksParams(drift_cv=0.0, noise_cv=0.0, day_cv=0.0, burst_cv=0.0, jump_cv=0.0, flash_per_day=0.0)


def rate_of(target: Vec) -> Vec:
    """A row whose power is proportional to its load: 0.25 requests/s and server at the top."""
    return 0.25 * target


def weeks(
    params: SixWeeksParams = CALM, servers: int = 40, seed: int = 1, span: Span = DAY, block_rows: int = 250_000
) -> SixWeeks:
    return SixWeeks(params, servers, rate_of, seed, span, block_rows)


def together(source: SixWeeks) -> Arrivals:
    blocks = list(source.blocks())
    assert all(len(block) > 0 for block in blocks)
    return Arrivals(
        np.concatenate([block.arrival_s for block in blocks]),
        np.concatenate([block.prompt_tokens for block in blocks]),
        np.concatenate([block.output_tokens for block in blocks]),
        np.concatenate([block.priority for block in blocks]),
    )


def bytes_of(arrivals: Arrivals) -> bytes:
    return b"".join(
        each.tobytes()
        for each in (arrivals.arrival_s, arrivals.prompt_tokens, arrivals.output_tokens, arrivals.priority)
    )


@pytest.fixture(scope="module")
def day() -> Arrivals:
    return together(weeks())


def test_arrivals_are_in_order_and_inside_the_run(day: Arrivals) -> None:
    assert (np.diff(day.arrival_s) >= 0.0).all()
    assert day.arrival_s[0] >= 0.0
    assert day.arrival_s[-1] < 86_400.0
    types = [each.dtype.str for each in (day.arrival_s, day.prompt_tokens, day.output_tokens, day.priority)]
    assert types == ["<f8", "<i4", "<i4", "|i1"]


def test_classes_have_their_shares_sizes_and_priorities(day: Arrivals) -> None:
    assert (day.prompt_tokens.min(), day.prompt_tokens.max()) == (512, 8192)
    assert (day.output_tokens.min(), day.output_tokens.max()) == (128, 2048)
    assert np.mean(day.prompt_tokens) == pytest.approx(0.25 * 5120 + 0.25 * 1280 + 0.5 * 3072, rel=0.01)
    assert np.mean(day.output_tokens) == pytest.approx(0.25 * 384 + 0.25 * 1536 + 0.5 * 1088, rel=0.01)
    assert np.mean(day.priority) == pytest.approx(0.5, abs=0.01)
    # Only Summarize has prompts above 4096, and it is low priority; only Search has any below 2048, and it is high.
    assert (day.priority[day.prompt_tokens > 4096] == 0).all()
    assert (day.priority[day.prompt_tokens < 2048] == 1).all()
    assert np.mean(day.prompt_tokens > 4096) == pytest.approx(0.25 * 4096 / 6145, abs=0.005)


def test_sizes_reach_both_ends_of_their_range_equally_often() -> None:
    params = replace(CALM, chat_share=1.0, summarize_share=0.0, search_share=0.0, chat_prompt_min=7, chat_prompt_max=9)
    counts = np.bincount(together(weeks(params)).prompt_tokens)[7:]
    assert len(counts) == 3
    assert counts / counts.sum() == pytest.approx(1 / 3, abs=0.01)


def test_the_target_is_one_at_its_highest_and_follows_day_and_week() -> None:
    source = weeks()
    minutes = np.arange(0.0, 42 * 86_400.0, 60.0)
    target = source.target(minutes)
    assert target.max() == 1.0
    assert target.min() == pytest.approx(0.6, abs=0.01)
    at = {hour: source.target(np.array([hour * 3600.0]))[0] for hour in (2, 14, 24 * 3 + 14, 24 * 7 + 14)}
    assert at[14] == pytest.approx(1.0)
    assert at[2] == pytest.approx(0.6)
    assert at[24 * 3 + 14] == pytest.approx(0.6 + 0.4 * 0.75)  # three days after Wednesday is a Saturday
    assert at[24 * 7 + 14] == pytest.approx(at[14])


def test_the_target_is_smooth() -> None:
    seconds = np.arange(0.0, 42 * 86_400.0, 30.0)
    target = weeks(SixWeeksParams()).target(seconds)
    assert np.abs(np.diff(target)).max() < 0.004  # at most 0.4 points in 30 s: rises within 40 s come from bursts
    assert (target >= 0.0).all()
    assert target.max() <= 1.0


def test_requests_follow_the_rate() -> None:
    source = weeks(SixWeeksParams())
    arrivals = together(source)
    counted = np.histogram(arrivals.arrival_s, bins=24, range=(0.0, 86_400.0))[0]
    expected = np.array([source.rate_rps(hour).sum() for hour in range(24)])
    assert ((counted - expected) ** 2 / expected).sum() < 60.0  # chi-squared with 24 degrees: one in 10,000


def test_without_bursts_counts_per_second_are_poisson(day: Arrivals) -> None:
    hour = day.arrival_s[(day.arrival_s >= 50_400.0) & (day.arrival_s < 54_000.0)]
    counts = np.bincount((hour - 50_400.0).astype(int), minlength=3600)
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.1)
    within = np.histogram(hour % 1.0, bins=10, range=(0.0, 1.0))[0]
    assert within / within.mean() == pytest.approx(1.0, abs=0.08)


def modulation_of(params: SixWeeksParams, hours: int = 150) -> Vec:
    source = weeks(params)
    return np.concatenate([source.modulation(hour) for hour in range(hours)])


@pytest.mark.parametrize("kind", ["burst", "jump"])
def test_modulation_has_mean_one_its_variation_and_its_correlation_time(kind: str) -> None:
    path = modulation_of(CALM.with_overrides({f"{kind}_cv": 0.3, f"{kind}_tau_s": 60.0}))
    assert path.mean() == pytest.approx(1.0, abs=0.02)
    assert path.std() == pytest.approx(0.3, rel=0.06)
    away = path - path.mean()
    for lag_s in (1, 30, 60):
        assert np.mean(away[lag_s:] * away[:-lag_s]) / path.var() == pytest.approx(np.exp(-lag_s / 60), abs=0.05)


def test_modulation_goes_on_across_hours() -> None:
    path = modulation_of(CALM.with_overrides({"burst_cv": 0.3, "burst_tau_s": 120.0}))
    steps = np.abs(np.diff(path))
    seams = steps[HOUR_S - 1 :: HOUR_S]
    assert seams.mean() < 1.5 * steps.mean()
    jumps = np.diff(modulation_of(CALM.with_overrides({"jump_cv": 0.3, "jump_tau_s": 120.0}))) != 0.0
    assert jumps[HOUR_S - 1 :: HOUR_S].mean() < 0.05
    assert jumps.mean() == pytest.approx(-np.expm1(-1 / 120), rel=0.1)


def test_bursts_are_the_same_for_any_number_of_servers() -> None:
    few, many = (weeks(SixWeeksParams(), servers=servers) for servers in (40, 52))
    for hour in (0, 13):
        assert np.allclose(many.rate_rps(hour), 1.3 * few.rate_rps(hour), rtol=1e-12)
        assert (many.modulation(hour) == few.modulation(hour)).all()


def test_switching_one_kind_of_burst_off_leaves_the_other_as_it_was() -> None:
    both = weeks(SixWeeksParams()).modulation(5)
    apart = [weeks(SixWeeksParams().with_overrides({f"{kind}_cv": 0.0})).modulation(5) for kind in ("burst", "jump")]
    assert np.allclose(both, apart[0] * apart[1])


def test_the_size_of_blocks_does_not_show() -> None:
    span = Span(days=0.2)
    whole = list(weeks(SixWeeksParams(), span=span).blocks())
    pieces = list(weeks(SixWeeksParams(), span=span, block_rows=500).blocks())
    assert max(len(block) for block in pieces) <= 500
    assert len(pieces) > len(whole) == 5
    assert b"".join(each.arrival_s.tobytes() for each in whole) == b"".join(each.arrival_s.tobytes() for each in pieces)
    for field in fields(Arrivals):
        ours, theirs = (np.concatenate([getattr(each, field.name) for each in blocks]) for blocks in (whole, pieces))
        assert (ours == theirs).all()


def test_same_seed_same_bytes_and_another_seed_others() -> None:
    span = Span(days=0.1)
    first, again, other = (together(weeks(SixWeeksParams(), seed=seed, span=span)) for seed in (1, 1, 2))
    assert bytes_of(first) == bytes_of(again)
    assert bytes_of(first) != bytes_of(other)


def test_a_day_alone_is_the_same_day_as_in_a_longer_run() -> None:
    whole = together(weeks(SixWeeksParams(), span=Span(days=2.0)))
    second = together(weeks(SixWeeksParams(), span=Span(days=1.0, start_day=1.0)))
    after = whole.arrival_s >= 86_400.0
    assert (whole.prompt_tokens[after] == second.prompt_tokens).all()
    assert np.allclose(whole.arrival_s[after] - 86_400.0, second.arrival_s, rtol=0.0, atol=1e-9)


def test_a_run_may_end_within_an_hour() -> None:
    source = weeks(span=Span(days=0.05))
    assert source.duration_s == 4320.0
    cut = together(source)
    assert cut.arrival_s[-1] < 4320.0
    assert (together(weeks()).arrival_s[: len(cut)] == cut.arrival_s).all()


def test_the_six_weeks_can_be_overridden_by_name() -> None:
    params = SixWeeksParams().with_overrides({"burst_cv": 0.5, "peak_hour": 9})
    assert (params.burst_cv, params.peak_hour, params.jump_cv) == (0.5, 9, SixWeeksParams().jump_cv)
    with pytest.raises(ConfigError, match="workload parameter 'burst' does not exist; there are summarize_share"):
        SixWeeksParams().with_overrides({"burst": 0.5})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"chat_share": 0.6}, "add up to 1.1, not to 1"),
        ({"chat_low_share": 1.5}, "between 0 and 1"),
        ({"trough_ratio": -0.1}, "not be negative"),
        ({"burst_cv": float("nan")}, "finite"),
        ({"burst_cv": 9.0}, "at most 3"),
        ({"burst_tau_s": 0.0}, "between 1 and 300"),
        ({"jump_tau_s": 3600.0}, "between 1 and 300"),
        ({"day_harmonic": 0.5}, "second peak"),
        ({"start_weekday": 7}, "0..6"),
        ({"peak_hour": 24}, "below 24"),
        ({"chat_prompt_min": 5000}, "min <= max"),
        ({"chat_output_min": 0}, "1 <= min"),
        ({"chat_output_max": 2048.5}, "whole tokens"),
    ],
)
def test_senseless_parameters_are_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")):
        SixWeeksParams().with_overrides(wrong)


@pytest.mark.parametrize(
    "wrong", [{"days": 0.0}, {"days": 43.0}, {"days": 2.0, "start_day": 41.0}, {"start_day": 0.01, "days": 1.0}]
)
def test_days_outside_the_six_weeks_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="day"):
        Span(**wrong)


def test_more_requests_in_a_second_than_a_block_holds_are_refused() -> None:
    with pytest.raises(ConfigError, match="in one second"):
        list(weeks(servers=4000, block_rows=500).blocks())


def test_generation_is_fast_and_takes_little_memory() -> None:
    source = weeks(SixWeeksParams(), servers=400, span=Span(days=0.5))
    best_s, requests = 9.0, 0
    for _ in range(3):
        begun_s = time.process_time()
        requests = sum(len(block) for block in source.blocks())
        best_s = min(best_s, time.process_time() - begun_s)
    # 6 to 10 million per second on an idle core; half of what is promised, for machines that are slow or busy.
    assert requests / best_s > 2_500_000
    tracemalloc.start()
    try:
        for _ in source.blocks():
            pass
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


def test_flashes_come_as_often_and_as_large_as_asked_for() -> None:
    source = weeks(replace(CALM, flash_per_day=48.0, flash_requests=0.5))
    flashes = np.concatenate([source.flashes(hour) for hour in range(240)])
    assert np.unique(flashes).tolist() == [0.0, 0.5]
    assert np.count_nonzero(flashes) == pytest.approx(480, rel=0.15)
    quiet = weeks(CALM).rate_rps(5)
    assert source.rate_rps(5) - quiet == pytest.approx(40 * source.flashes(5))


def test_a_flash_strikes_at_the_same_second_whatever_the_number_of_servers() -> None:
    params = replace(CALM, flash_per_day=48.0)
    assert weeks(params, servers=40).flashes(7).tolist() == weeks(params, servers=52).flashes(7).tolist()


def test_days_differ_in_height_but_not_in_their_nights() -> None:
    source = weeks(replace(CALM, day_cv=0.15))
    hours = np.arange(0.0, 42 * 24.0) * 3600.0
    by_day = source.target(hours).reshape(42, 24)
    weekdays = by_day[[d for d in range(42) if (d + 2) % 7 < 5]]
    assert np.std(weekdays.max(axis=1)) > 0.02
    assert np.std(weekdays.min(axis=1)) < 0.01
    assert source.target(np.arange(0.0, 42 * 86_400.0, 60.0)).max() == 1.0
