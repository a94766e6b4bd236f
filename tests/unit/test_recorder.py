"""Books of a run: energy, protection, cap states, figures and the series for plots."""

import numpy as np
import pytest

from policies.models.protection import TripEdge
from sim_backend.meter import RowMeter, largest_rise, window_means
from sim_backend.recorder import PLOT_BINS, WORST_S, Largest, Recorder, protection_of
from sim_backend.seconds import AT_HAND, SECOND, Seconds

EDGE = TripEdge(((1.0, 10.0), (2.0, 5.0)), cooling_s=60.0)
PRIORITY = np.array([0, 0, 0, 1])


def recorded(
    power_w: np.ndarray, priority: np.ndarray = PRIORITY, *, at_hand: int = AT_HAND, braked_at: int = -1
) -> Recorder:
    recorder = Recorder(power_w.size, priority, at_hand=at_hand)
    for second, watts in enumerate(power_w.tolist()):
        recorder.second(watts, watts, braked=second == braked_at)
    return recorder


def noise(seconds: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 10_000.0 + 50.0 * np.cumsum(rng.standard_normal(seconds))


# -- breaker --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("load", "carried_s"), [(1.0001, 10), (2.0, 5), (3.0, 5)])
def test_a_constant_overload_trips_when_its_time_is_used_up(load: float, carried_s: int):
    protection = protection_of(EDGE, 1_000.0)
    for _ in range(carried_s - 1):
        protection.advance(1_000.0 * load)
    assert protection.trips == 0
    protection.advance(1_000.0 * load)
    protection.advance(1_000.0 * load)  # of two loads the times are no whole seconds
    assert protection.trips == 1
    assert protection.highest >= 1.0
    assert protection.left_min_s == pytest.approx(0.0, abs=1e-9)


def test_at_the_rating_nothing_is_used_up():
    protection = protection_of(EDGE, 1_000.0)
    for _ in range(100):
        protection.advance(1_000.0)
    assert (protection.trips, protection.highest, protection.left_min_s) == (0, 0.0, None)


def test_below_the_rating_it_cools_and_carries_more_again():
    protection = protection_of(EDGE, 1_000.0)
    for _ in range(4):
        protection.advance(2_000.0)
    assert protection.left_min_s == pytest.approx(1.0)
    for _ in range(120):
        protection.advance(500.0)
    assert protection.heat.ratio == pytest.approx(0.8 * np.exp(-2.0))
    for _ in range(4):
        protection.advance(2_000.0)
    assert protection.trips == 0
    assert protection.highest == pytest.approx(0.8 + 0.8 * np.exp(-2.0))


def test_after_a_trip_the_run_goes_on_and_may_trip_again():
    protection = protection_of(EDGE, 1_000.0)
    for _ in range(12):
        protection.advance(2_000.0)
    assert protection.trips == 2


# -- energy, caps and figures -----------------------------------------------------------------------------------------


def test_energy_is_the_sum_of_the_power_of_all_servers():
    recorder = Recorder(3, PRIORITY)
    for power_w, total_w in ((1.0, 10.0), (2.0, 20.0), (4.0, 40.0)):
        recorder.second(power_w, total_w, braked=False)
    assert recorder.energy_j == 70.0
    assert recorder.power_w.tolist() == [1.0, 2.0, 4.0]


def test_seconds_under_a_cap_are_a_mean_over_the_servers_of_a_priority():
    recorder = Recorder(10, PRIORITY)
    for capped in ([False] * 4, [True, False, False, False], [True, True, True, True], [False] * 4):
        recorder.caps_changed(np.array(capped))
        recorder.second(1.0, 1.0, braked=False)
        recorder.second(1.0, 1.0, braked=False)
    assert recorder.mean_capped_s().tolist() == [pytest.approx((2 + 6) / 3), 2.0]
    assert recorder.capped_share[:8].tolist() == [0.0, 0.0, 0.25, 0.25, 1.0, 1.0, 0.0, 0.0]


def test_a_priority_without_servers_was_never_capped():
    recorder = recorded(np.ones(4), np.zeros(3, np.int64))
    recorder.caps_changed(np.ones(3, np.bool_))
    assert recorder.mean_capped_s().tolist() == [0.0, 0.0]


def test_figures_of_power_are_those_of_the_meter():
    power_w = np.array([80.0, 82.0, 90.0, 92.0, 60.0, 60.0, 50.0, 101.0])
    figures = recorded(power_w).power_figures(100.0, window_s=2, warm_up_s=0)
    assert figures["peak_over_budget"] == pytest.approx(0.91)
    assert figures["peak_1s_over_budget"] == pytest.approx(1.01)
    assert figures["rise_2s_points"] == pytest.approx(15.5)
    assert figures["rise_40s_points"] == pytest.approx(15.5)
    assert figures["above_t1_s"] == 4.0
    assert figures["above_t2_s"] == 2.0


def test_the_warm_up_counts_in_no_figure_but_never_takes_the_whole_run():
    power_w = np.array([500.0] * 10 + [70.0] * 30)
    assert recorded(power_w).power_figures(100.0, 2, 10)["peak_over_budget"] == pytest.approx(0.7)
    assert recorded(power_w).power_figures(100.0, 2, 10_000)["peak_over_budget"] == pytest.approx(0.7)


# -- series -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [4, 7, 300, 1_200, 1_201, 5_000])
def test_the_plot_holds_the_whole_run_in_bins(seconds: int):
    power_w = noise(seconds)
    recorder = recorded(power_w, braked_at=seconds // 2)
    series = recorder.series(window_s=2, delay_s=2)
    bins = series.mean_w.size
    assert bins <= PLOT_BINS
    assert bins == -(-seconds // int(series.bin_s))
    assert (series.low_w <= series.mean_w).all()
    assert (series.mean_w <= series.high_w).all()
    assert (series.low_w.min(), series.high_w.max()) == (power_w.min(), power_w.max())
    sizes = np.minimum(series.bin_s, seconds - series.bin_s * np.arange(bins))
    assert (series.mean_w * sizes).sum() == pytest.approx(power_w.sum())
    assert series.braked.sum() == 1


@pytest.mark.parametrize("seconds", [5, 119, 120, 2_000])
def test_the_worst_minutes_hold_the_highest_reading_and_what_the_meter_said_by_then(seconds: int):
    power_w = noise(seconds, seed=2)
    series = recorded(power_w).series(window_s=2, delay_s=2)
    assert series.worst_w.size == min(seconds, WORST_S)
    start = int(series.worst_start_s)
    assert series.worst_w.tolist() == power_w[start : start + series.worst_w.size].tolist()
    highest = power_w[: seconds // 2 * 2].reshape(-1, 2).mean(axis=1).argmax() * 2
    assert start <= highest < start + series.worst_w.size
    meter, said_w, latest_w = RowMeter(1, 2, 2), [], np.nan
    for watts in power_w.tolist():
        reading = meter.advance(np.array([watts]))
        latest_w = latest_w if reading is None else float(reading[0])
        said_w.append(latest_w)
    assert series.worst_meter_w == pytest.approx(said_w[start : start + series.worst_w.size], nan_ok=True)


# -- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_hand", [1, 7, 100, 1_000, 10_000])
@pytest.mark.parametrize(("seconds", "window_s"), [(37, 2), (1_000, 1), (3_001, 5), (5_000, 60)])
def test_how_much_is_kept_at_hand_changes_no_byte(seconds: int, window_s: int, at_hand: int):
    power_w = noise(seconds, seed=3)
    many, few = recorded(power_w, braked_at=11), recorded(power_w, at_hand=at_hand, braked_at=11)
    if seconds >= window_s:
        assert few.power_figures(10_000.0, window_s, 20) == many.power_figures(10_000.0, window_s, 20)
    ours, theirs = few.series(window_s, 2), many.series(window_s, 2)
    for name in ("low_w", "mean_w", "high_w", "capped_share", "braked", "worst_w", "worst_meter_w", "worst_braked"):
        assert getattr(ours, name).tobytes() == getattr(theirs, name).tobytes(), name
    assert ours.worst_start_s == theirs.worst_start_s


@pytest.mark.parametrize("at_hand", [50, AT_HAND])
def test_figures_are_those_of_the_whole_series(at_hand: int):
    power_w = noise(4_003, seed=4)
    figures = recorded(power_w, at_hand=at_hand).power_figures(10_500.0, 2, 300)
    readings = window_means(power_w[300:], 2) / 10_500.0
    assert figures == {
        "peak_over_budget": float(readings.max()),
        "p99_over_budget": float(np.quantile(readings, 0.99)),
        "peak_1s_over_budget": float(power_w[300:].max()) / 10_500.0,
        "rise_2s_points": 100.0 * largest_rise(readings, 1),
        "rise_40s_points": 100.0 * largest_rise(readings, 20),
        "above_t1_s": float((readings > 0.80).sum() * 2),
        "above_t2_s": float((readings > 0.89).sum() * 2),
    }


@pytest.mark.parametrize("count", [1, 2, 3, 99, 100, 101, 150, 151, 1_000, 4_321])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_the_quantile_of_blocks_is_that_of_all_values(count: int, share: float):
    values = np.random.default_rng(count).normal(size=count)
    largest = Largest(count, share)
    for block in np.array_split(values, 7):
        largest.take(block)
    assert largest.quantile() == float(np.quantile(values, share))


def test_rows_are_read_back_from_memory_and_file_alike():
    seconds = Seconds(10)
    for k in range(47):
        seconds.append(float(k), 0.5, braked=k % 3 == 0)
        assert len(seconds) == k + 1
    for start, stop in ((0, 47), (3, 8), (3, 25), (38, 44), (44, 47), (39, 41), (5, 5), (20, 99)):
        assert seconds.read(start, stop)["power_w"].tolist() == list(range(start, min(stop, 47)))
    assert seconds.read(0, 47)["braked"].sum() == 16
    assert [len(block) for block in seconds.blocks(3, 2)] == [9, 9, 9, 9, 9]


def test_a_year_holds_no_more_memory_than_its_last_hours():
    recorder = Recorder(365 * 86_400, PRIORITY)
    assert recorder._seconds._recent.nbytes == AT_HAND * SECOND.itemsize < 2e6
