"""What users got, and how caps changed it."""

from typing import Any

import numpy as np
import pytest

from sim_backend.histogram import BINS, quantile
from sim_backend.outcome import Outcome, curves, latency, outcome_of, user_figures
from sim_backend.site import Slo
from tests.twin.plant_cases import plant_of, requests

NO_HOURS = np.empty((0, 2, 2))


def outcome(shift: int = 0, **changes: object) -> Outcome:
    """A hundred requests of each priority whose times lie `shift` bins higher than before."""
    bins = np.zeros((2, BINS), np.int64)
    bins[0, 100 + shift : 200 + shift] = 1
    bins[1, 300 + shift : 350 + shift] = 2
    given: dict[str, object] = {
        "bins": {"ttft_s": bins, "tbt_s": bins, "e2e_s": bins},
        "hours": NO_HOURS,
        "arrived": np.array([104, 103]),
        "completed": np.array([100, 100]),
        "rejected": np.array([1, 0]),
        "generated_tokens": np.array([5_000, 8_000]),
        "good": np.array([90, 100]),
        "duration_s": 50.0,
        **changes,
    }
    return Outcome(**given)  # type: ignore[arg-type]


def figures_of(now: Outcome, before: Outcome) -> dict[str, Any]:
    return user_figures(now, before)


def test_nothing_changes_against_itself():
    figures = figures_of(outcome(), outcome())
    assert figures["latency_change_pct"] == {"low": {"p50": 0.0, "p99": 0.0}, "high": {"p50": 0.0, "p99": 0.0}}
    assert figures["throughput_change_pct"] == {"low": 0.0, "high": 0.0}


def test_a_change_is_told_in_per_cent_of_the_same_fleet_uncapped():
    slower, before = outcome(40, generated_tokens=np.array([4_000, 8_000])), outcome()
    figures = figures_of(slower, before)
    for code, name in enumerate(("low", "high")):
        now_s, before_s = quantile(slower.bins["e2e_s"][code], 0.5), quantile(before.bins["e2e_s"][code], 0.5)
        assert figures["latency_change_pct"][name]["p50"] == pytest.approx(100 * (now_s / before_s - 1))
        assert figures["latency_change_detail_pct"][name]["ttft_s"]["p50"] > 0.0
    assert figures["throughput_change_pct"] == {"low": pytest.approx(-20.0), "high": 0.0}
    assert figures["throughput_tokens_per_s"] == {"low": 80.0, "high": 160.0}


def test_requests_add_up():
    counted = figures_of(outcome(), outcome())["requests"]
    assert counted["in_flight"] == {"low": 3, "high": 3}
    for name in ("low", "high"):
        assert counted["arrived"][name] == sum(counted[part][name] for part in ("completed", "in_flight", "rejected"))


def test_goodput_counts_requests_that_met_their_targets():
    figures = figures_of(outcome(), outcome())
    assert figures["goodput_rps"] == {"low": 1.8, "high": 2.0}
    assert figures["slo_attainment_ratio"] == {"low": 0.9, "high": 1.0}


def test_a_priority_that_asked_nothing_has_no_figures():
    bins = outcome().bins["e2e_s"].copy()
    bins[1] = 0
    nothing = np.array([100, 0])
    quiet = outcome(
        bins={"ttft_s": bins, "tbt_s": bins, "e2e_s": bins}, completed=nothing, good=nothing, generated_tokens=nothing
    )
    figures = figures_of(quiet, quiet)
    for key in ("latency", "latency_change_pct", "latency_change_detail_pct"):
        assert figures[key]["high"] is None
        assert figures[key]["low"] is not None
    assert figures["slo_attainment_ratio"]["high"] is None
    assert figures["throughput_change_pct"]["high"] is None
    assert set(latency(quiet)) == set(curves(quiet)) == {"low"}


def test_the_worst_hour_is_the_one_that_changed_most():
    before = np.full((3, 2, 2), 10.0)
    after = before.copy()
    after[1, 0] = 12.0, 11.0
    after[2, 0] = 11.0, 15.0
    after[:, 1, 1] = np.nan, 10.0, 10.5  # an hour without requests says nothing
    worst = figures_of(outcome(hours=after), outcome(hours=before))["worst_hour_change_pct"]
    assert worst["low"] == {"p50": pytest.approx(20.0), "p99": pytest.approx(50.0)}
    assert worst["high"] == {"p50": 0.0, "p99": pytest.approx(5.0)}


def test_a_run_shorter_than_an_hour_has_no_worst_hour():
    worst = figures_of(outcome(), outcome())["worst_hour_change_pct"]
    assert worst == {"low": {"p50": None, "p99": None}, "high": {"p50": None, "p99": None}}


def test_a_curve_rises_to_the_whole():
    for metrics in curves(outcome()).values():
        for found in metrics.values():
            assert (np.diff(found.value_s) >= 0.0).all()
            assert (np.diff(found.share) >= 0.0).all()
            assert found.share[-1] == pytest.approx(1.0)


def test_a_plant_is_read_at_its_end_and_not_later():
    plant = plant_of(requests([0.0, 1.0, 2.0], prompt=[500, 60_000, 500], output=5), slo={"low": Slo(0.15, 1.0)})
    plant.advance(2.01)
    found = outcome_of(plant, [])
    plant.advance(60.0)
    assert found.arrived.tolist() == [3, 0]
    assert found.completed.tolist() == [1, 0]
    assert found.rejected.tolist() == [1, 0]
    assert found.duration_s == 2.01
    assert found.bins["e2e_s"].sum() == 1
