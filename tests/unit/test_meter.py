"""The row meter, and what a series says about rises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim_backend.meter import RowMeter, largest_rise, window_means


def readings(meter: RowMeter, watts: list[float]) -> list[tuple[int, float]]:
    """(second, reading) of everything the meter said while fed with 1 s means."""
    said = []
    for second, value in enumerate(watts, start=1):
        reading = meter.advance(np.array([value]))
        if reading is not None:
            said.append((second, float(reading[0])))
    return said


def test_a_reading_is_the_mean_of_its_window_and_comes_late():
    meter = RowMeter(1, window_s=2, delay_s=2)
    assert readings(meter, [10.0, 20.0, 30.0, 50.0, 0.0, 0.0, 9.0]) == [(4, 15.0), (6, 40.0)]


def test_a_meter_without_delay_speaks_at_the_end_of_its_window():
    assert readings(RowMeter(1, 3, 0), [3.0, 6.0, 9.0, 1.0, 1.0, 4.0]) == [(3, 6.0), (6, 2.0)]


def test_a_window_of_one_second_passes_every_value_on():
    assert readings(RowMeter(1, 1, 1), [5.0, 6.0, 7.0]) == [(2, 5.0), (3, 6.0)]


def test_constraints_are_metered_side_by_side():
    meter = RowMeter(2, 1, 0)
    reading = meter.advance(np.array([1.0, 2.0]))
    assert reading is not None
    assert reading.tolist() == [1.0, 2.0]


@given(watts=st.lists(st.floats(0.0, 1e6), max_size=60), window_s=st.integers(1, 7), delay_s=st.integers(0, 9))
def test_the_meter_says_what_the_series_holds_so_much_later(watts: list[float], window_s: int, delay_s: int):
    said = readings(RowMeter(1, window_s, delay_s), watts)
    means = window_means(np.array(watts), window_s)
    assert [value for _, value in said] == pytest.approx(means[: len(said)].tolist())
    assert [second for second, _ in said] == [window_s * (k + 1) + delay_s for k in range(len(said))]
    assert len(said) == max(0, len(watts) - delay_s) // window_s


def test_an_unfinished_window_is_left_out():
    assert window_means(np.arange(7.0), 3).tolist() == [1.0, 4.0]
    assert window_means(np.arange(2.0), 3).size == 0


def test_a_rise_may_take_fewer_steps_than_allowed():
    series = np.array([5.0, 1.0, 4.0, 2.0, 9.0, 0.0, 3.0])
    assert largest_rise(series, 1) == 7.0
    assert largest_rise(series, 3) == 8.0
    assert largest_rise(series, 100) == 8.0


def test_what_only_falls_has_no_rise():
    assert largest_rise(np.array([3.0, 2.0, 1.0]), 2) == 0.0
    assert largest_rise(np.array([3.0]), 2) == 0.0
    assert largest_rise(np.empty(0), 2) == 0.0
    assert largest_rise(np.array([1.0, 2.0]), 0) == 0.0


@given(watts=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30), steps=st.integers(0, 35))
def test_the_largest_rise_is_the_largest_of_all_pairs(watts: list[float], steps: int):
    pairs = [watts[j] - watts[i] for i in range(len(watts)) for j in range(i, min(i + steps, len(watts) - 1) + 1)]
    assert largest_rise(np.array(watts), steps) == max(pairs)
