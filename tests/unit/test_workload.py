"""Requests for any number of servers, and the curve that turns wanted power into requests."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sim_backend.arrivals import ArrivalSource
from sim_backend.fleet import build_servers
from sim_backend.six_weeks import SixWeeksParams
from sim_backend.workload import CURVE_RATES, SIX_WEEKS, LoadCurve, Workload, measure_load_curve
from tests.twin.small_site import IDLE_W, WaveSource, site_of, write_trace

CURVE = LoadCurve((0.0, 0.05, 0.10), (0.5, 0.9, 1.0))


def workload_of(requests: object, **changes: object) -> Workload:
    whole = Workload(
        requests=str(requests),
        seed=1,
        days=None,
        start_day=0.0,
        rate=1.0,
        compress_time=1.0,
        low_share=0.5,
        overrides={},
        base_servers=6,
        curve=CURVE,
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def times(source: ArrivalSource) -> list[float]:
    return [float(t) for block in source.blocks() for t in block.arrival_s]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return write_trace(tmp_path / "trace.csv", WaveSource(((400.0, 2.0),)))


# -- a recorded trace -------------------------------------------------------------------------------------------------


def test_the_servers_it_was_recorded_for_get_the_trace_as_it_is(trace: Path):
    recorded = [float(line.split(",")[0]) for line in trace.read_text().splitlines()[1:]]
    assert times(workload_of(trace).source(6)) == recorded


@pytest.mark.parametrize("servers", [3, 9, 12, 60])
def test_added_servers_get_as_much_load_each(servers: int, trace: Path):
    recorded = len(times(workload_of(trace).source(6)))
    got = len(times(workload_of(trace).source(servers)))
    # Whole copies are exact, the rest of one is drawn: four standard deviations of a fair coin per request.
    assert got == pytest.approx(recorded * servers / 6, abs=2.0 * np.sqrt(recorded))
    assert len(times(workload_of(trace).source(12))) == 2 * recorded


def test_the_rate_multiplies_requests_and_leaves_time(trace: Path):
    once, twice = workload_of(trace).source(6), workload_of(trace, rate=2.0).source(6)
    assert twice.duration_s == once.duration_s
    assert len(times(twice)) == 2 * len(times(once))
    assert set(times(once)) <= set(times(twice))


def test_compressed_time_shortens_the_run(trace: Path):
    whole, half = workload_of(trace).source(6), workload_of(trace, compress_time=2.0).source(6)
    assert half.duration_s == pytest.approx(whole.duration_s / 2)
    assert times(half) == pytest.approx([t / 2 for t in times(whole)])


def test_days_end_a_run_early(trace: Path):
    source = workload_of(trace, days=100.0 / 86_400.0).source(6)
    assert source.duration_s == pytest.approx(100.0)
    assert max(times(source)) < 100.0


def test_the_share_of_low_priority_is_the_sites(trace: Path):
    for low_share in (0.0, 0.25, 1.0):
        blocks = list(workload_of(trace, low_share=low_share).source(6).blocks())
        priority = np.concatenate([block.priority for block in blocks])
        assert (priority == 0).mean() == pytest.approx(low_share, abs=2.0 / np.sqrt(priority.size))


def test_a_recorded_trace_needs_no_warm_up(trace: Path):
    assert workload_of(trace).warm_up_s == 0
    assert workload_of(SIX_WEEKS).warm_up_s == 1_800


# -- six weeks --------------------------------------------------------------------------------------------------------


def test_six_weeks_give_added_servers_as_much_load_each():
    few, many = (workload_of(SIX_WEEKS, days=0.25, start_day=20.5).source(n) for n in (20, 200))
    assert few.duration_s == many.duration_s == 21_600.0
    assert len(times(many)) / 200 == pytest.approx(len(times(few)) / 20, rel=0.1)


def test_six_weeks_may_begin_on_any_of_their_days():
    whole = workload_of(SIX_WEEKS, days=2.0).source(6)
    second = workload_of(SIX_WEEKS, days=1.0, start_day=1.0).source(6)
    assert [t - 86_400.0 for t in times(whole) if t >= 86_400.0] == pytest.approx(times(second))


def test_six_weeks_from_a_day_on_last_to_their_end():
    assert workload_of(SIX_WEEKS, start_day=40.0).source(6).duration_s == 2 * 86_400.0
    assert workload_of(SIX_WEEKS).source(6).duration_s == 42 * 86_400.0


def test_parameters_of_the_site_are_obeyed():
    quiet = workload_of(SIX_WEEKS, days=0.5, overrides={"search_share": 1.0, "summarize_share": 0.0, "chat_share": 0.0})
    blocks = list(quiet.source(6).blocks())
    assert {int(p) for block in blocks for p in block.priority} == {1}


# -- the load curve ---------------------------------------------------------------------------------------------------


def test_a_curve_gives_back_the_rates_it_was_measured_at_and_stays_inside_them():
    wanted = np.array([0.0, 0.5, 0.7, 0.9, 0.95, 1.0, 2.0])
    assert CURVE.rate_of(wanted) == pytest.approx([0.0, 0.0, 0.025, 0.05, 0.075, 0.10, 0.10])


def test_the_measured_curve_begins_at_idle_and_rises_to_the_peak_rate():
    site = site_of(1e6)
    params = SixWeeksParams()
    curve = measure_load_curve(site, build_servers(site, 0.0), params, seed=1)
    assert len(curve.rate_rps) <= CURVE_RATES
    assert curve.rate_rps[0] == 0.0
    assert curve.rate_rps[-1] == pytest.approx(params.peak_rate_rps)
    assert (np.diff(curve.rate_rps) > 0.0).all()
    assert (np.diff(curve.level) > 0.0).all()
    assert curve.level[-1] == 1.0
    # An idle server draws 1760 W of this profile; a full one about twice as much.
    assert 0.4 < curve.level[0] < 0.7
    assert 6 * IDLE_W / curve.level[0] == pytest.approx(6 * 3_500.0, rel=0.2)
    assert curve == measure_load_curve(site, build_servers(site, 0.0), params, seed=1)
