import math
from dataclasses import replace

import pytest

from sim_backend.report.headline import sentences
from sim_backend.report.verdict import Outcome, held, judge, limits_of
from sim_backend.result import ReplayResult, RunResult

GOOD = {
    "brakes": 0,
    "breaker_trips": 0,
    "latency_change_pct": {"high": {"p50": 0.9, "p99": 4.9}, "low": {"p50": 4.9, "p99": 49.0}},
}
LIMITS = limits_of({})


def run(policy: str = "polca", pct: float = 30.0, **figures: object) -> RunResult:
    return RunResult(policy, pct, round(40 * (1 + pct / 100)), "out-of-band", "reactive", {**GOOD, **figures})


def slowed(priority: str, quantile: str, value: float | None) -> RunResult:
    change = {name: dict(part) for name, part in GOOD["latency_change_pct"].items()}  # type: ignore[attr-defined]
    change[priority][quantile] = value
    return run(latency_change_pct=change)


def job(*runs: RunResult, **header: object) -> ReplayResult:
    return ReplayResult(header, runs)


def test_a_run_below_every_limit_is_within() -> None:
    assert judge(run(), LIMITS).words == "yes"


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        (slowed("high", "p50", 1.0), "HP P50"),
        (slowed("high", "p99", 5.0), "HP P99"),
        (slowed("low", "p50", 5.0), "LP P50"),
        (slowed("low", "p99", 50.0), "LP P99"),
        (run(brakes=1), "brakes"),
        (run(breaker_trips=1), "trips"),
    ],
)
def test_each_limit_is_strict_and_named(broken: RunResult, name: str) -> None:
    assert judge(broken, LIMITS).words == f"no: {name}"


@pytest.mark.parametrize("missing", [None, math.nan])
def test_a_missing_figure_is_never_taken_for_a_good_one(missing: float | None) -> None:
    verdict = judge(slowed("low", "p99", missing), LIMITS)
    assert verdict.outcome is Outcome.UNKNOWN
    assert verdict.words == "unknown: no LP P99"


def test_a_broken_limit_outweighs_a_missing_figure() -> None:
    assert judge(run(brakes=3, latency_change_pct={}), LIMITS).words == "no: brakes"


@pytest.mark.parametrize("requests", [{"arrived": {"low": 0, "high": 9}}, {"low": {"arrived": 0}}])
def test_a_class_from_which_nobody_asked_cannot_have_been_slowed(requests: object) -> None:
    change = {"high": {"p50": 0.1, "p99": 0.1}, "low": None}
    assert judge(run(latency_change_pct=change, requests=requests), LIMITS).outcome is Outcome.WITHIN
    assert judge(run(latency_change_pct=change), LIMITS).outcome is Outcome.UNKNOWN


def test_a_replay_may_bring_limits_of_its_own() -> None:
    limits = limits_of({"limits": {"high_p50": 2.0}})
    assert judge(slowed("high", "p50", 1.5), limits).outcome is Outcome.WITHIN
    assert judge(slowed("high", "p50", 1.5), LIMITS).outcome is Outcome.OUTSIDE


def test_limits_are_written_out_for_people() -> None:
    assert [limit.words.replace("\N{NO-BREAK SPACE}", " ") for limit in LIMITS] == [
        "0 brakes",
        "0 trips",
        "HP P50 < 1 %",
        "HP P99 < 5 %",
        "LP P50 < 5 %",
        "LP P99 < 50 %",
    ]


def test_what_is_held_ends_at_the_first_number_that_fails() -> None:
    """40 % happening to hold does not help where 30 % fails."""
    (one,) = held(job(run(pct=40.0), run(pct=20.0), run(pct=30.0, brakes=1), run(pct=0.0)))
    assert (one.add_servers_pct, one.servers, one.is_most_tested) == (20.0, 48, False)


def test_nothing_is_held_where_the_smallest_number_fails() -> None:
    (one,) = held(job(run(pct=0.0, brakes=1), run(pct=10.0)))
    assert (one.add_servers_pct, one.servers) == (None, None)


def said(result: ReplayResult) -> list[str]:
    return [sentence.replace("\N{NO-BREAK SPACE}", " ") for sentence in sentences(result)]


def test_the_headline_sets_the_best_policy_against_no_control_at_all() -> None:
    result = job(
        run("no-cap", 0.0),
        run("no-cap", 30.0, brakes=9),
        run("polca", 0.0),
        run("polca", 30.0),
        uncontrolled={"servers": 43.0, "add_servers_pct": 7.5},
    )
    first, second, third = said(result)
    assert first == "polca holds 30 % more servers, 52 in all, within every limit. No larger number was tested."
    assert second.startswith("With no control at all, 43 servers fit (+7.5 %)")
    assert third == (
        "Out-of-band, reactive: no-cap holds 0 % (40 servers); polca holds 30 % (52 servers, the most tested)."
    )


def test_policies_that_hold_the_same_are_all_named() -> None:
    first, *_ = said(job(run("fair-share"), run("polca"), run("no-cap", brakes=1)))
    assert first.startswith("fair-share and polca hold 30 % more servers")


def test_paths_are_named_where_there_are_several() -> None:
    in_band = replace(run(), actuation="in-band", guarantee="hard")
    first, *_ = said(job(run(brakes=1), in_band))
    assert first.startswith("polca (in-band hard) holds 30 % more servers")


def test_no_gain_is_said_plainly() -> None:
    assert said(job(run(pct=0.0), run(pct=10.0, brakes=1)))[0] == (
        "Nothing held more servers within every limit; polca holds the 40 there were."
    )
    assert (
        said(job(run(pct=10.0, brakes=1)))[0] == "No policy stayed within the limits at any number of servers tested."
    )
    assert said(job()) == ["Nothing was run."]
