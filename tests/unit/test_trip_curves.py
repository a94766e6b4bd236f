"""Named curves: standards, relays, UPS tables, and what heat and temperature do to them."""

import math

import pytest

from policies.models.protection import Edge, Heat, InverseTimeEdge, TripEdge, derated_rating
from policies.models.trip_curves import NAMED


def edge(name: str, pickup_ratio: float = 1.0, time_multiplier: float = 1.0) -> Edge:
    return NAMED[name].edge(60.0, pickup_ratio, time_multiplier)


@pytest.mark.parametrize(
    ("name", "at_125_s", "at_200_s"),
    [
        ("iec-si", 31.3, 10.03),
        ("iec-vi", 54.0, 13.5),
        ("iec-ei", 142.2, 26.67),
        ("ieee-mi", 11.64, 3.80),
        ("ieee-vi", 35.35, 7.03),
        ("ieee-ei", 50.26, 9.52),
    ],
)
def test_relay_curves_give_the_published_times_less_the_tolerance(name: str, at_125_s: float, at_200_s: float) -> None:
    assert edge(name).hold_s(1.25) == pytest.approx(0.95 * at_125_s, rel=0.005)
    assert edge(name).hold_s(2.0) == pytest.approx(0.95 * at_200_s, rel=0.005)


def test_a_relay_takes_its_settings() -> None:
    assert edge("iec-vi", pickup_ratio=1.2).hold_s(1.2) == math.inf
    assert edge("iec-vi", pickup_ratio=1.2).hold_s(2.4) == pytest.approx(edge("iec-vi").hold_s(2.0))
    assert edge("iec-vi", time_multiplier=0.1).hold_s(2.0) == pytest.approx(0.1 * edge("iec-vi").hold_s(2.0))


def test_beyond_twenty_times_pickup_a_relay_is_no_faster() -> None:
    assert edge("iec-ei").hold_s(50.0) == edge("iec-ei").hold_s(20.0) > 0.0


@pytest.mark.parametrize(("name", "hold_ratio"), [("iec-60898-1", 1.13), ("iec-60947-2", 1.05)])
def test_a_standard_promises_an_hour_at_its_hold_current_and_nothing_beyond(name: str, hold_ratio: float) -> None:
    assert edge(name).hold_s(1.0) == math.inf
    assert edge(name).hold_s(hold_ratio) == 3600.0
    assert edge(name).hold_s(hold_ratio + 1e-6) == 0.0


def test_ul_489_promises_its_rating_only() -> None:
    """Its 135 % and 200 % points are times by which it must have tripped, so they carry nothing."""
    assert edge("ul-489").hold_s(1.0) == math.inf
    assert edge("ul-489").hold_s(1.01) == 0.0


@pytest.mark.parametrize(
    ("name", "load", "seconds"),
    [
        ("ups-huawei-2000-g", 1.05, math.inf),
        ("ups-huawei-2000-g", 1.08, 600.0),
        ("ups-huawei-2000-g", 1.11, 60.0),
        ("ups-huawei-2000-g", 1.5, 3.0),
        ("ups-huawei-2000-g", 1.6, 0.5),
        ("ups-huawei-2000-g", 2.1, 0.0),
        ("ups-liebert-610", 1.04, math.inf),
        ("ups-liebert-610", 1.25, 600.0),
        ("ups-liebert-610", 1.26, 30.0),
        ("ups-liebert-610", 1.51, 0.0),
        ("ups-least", 1.02, 600.0),
    ],
)
def test_a_ups_table_goes_in_steps(name: str, load: float, seconds: float) -> None:
    assert edge(name).hold_s(load) == seconds


@pytest.mark.parametrize("name", sorted(NAMED))
def test_no_device_carries_more_for_longer(name: str) -> None:
    holds = [edge(name).hold_s(0.8 + 0.01 * k) for k in range(300)]
    assert holds == sorted(holds, reverse=True)
    assert holds[0] == math.inf
    assert NAMED[name].source


def test_what_is_not_carried_at_all_trips_at_once_and_stays_tripped() -> None:
    heat = Heat(edge("ul-489"))
    assert heat.left_s(1.2) == 0.0
    heat.advance(1.2, 0.001)
    assert heat.ratio == math.inf
    heat.advance(0.5, 10.0)
    assert heat.ratio == math.inf


def test_seconds_left_fall_as_heat_rises() -> None:
    heat = Heat(edge("ups-liebert-610"))
    assert heat.left_s(1.25) == 600.0
    heat.advance(1.4, 15.0)
    assert heat.left_s(1.25) == pytest.approx(300.0)
    assert heat.left_s(1.4) == pytest.approx(15.0)
    assert heat.left_s(1.03) == math.inf


def test_a_load_above_the_rating_that_is_held_for_ever_lets_heat_out() -> None:
    heat = Heat(TripEdge(((1.5, 30.0),), cooling_s=10.0, hold_ratio=1.2))
    heat.advance(1.5, 15.0)
    heat.advance(1.1, 10.0)
    assert heat.ratio == pytest.approx(0.5 / math.e)


def test_a_hot_room_costs_rating_and_a_cool_one_gives_none() -> None:
    assert derated_rating(50.0, 40.0, 0.005) == pytest.approx(0.95)
    assert derated_rating(20.0, 40.0, 0.005) == 1.0
    assert derated_rating(90.0, 30.0, 0.1) == 0.0


def test_the_relay_formula_is_the_one_of_the_standard() -> None:
    relay = InverseTimeEdge(13.5, 1.0, 0.5, cooling_s=60.0, time_multiplier=2.0, tolerance=0.0)
    assert relay.hold_s(4.0) == pytest.approx(2.0 * (13.5 / 3.0 + 0.5))
