"""Heat of a breaker against its minimum-trip edge."""

import math

import pytest

from policies.models.protection import Heat, TripEdge

EDGE = TripEdge(points=((1.1, 600.0), (1.5, 60.0), (2.0, 10.0)), cooling_s=300.0)


def test_up_to_the_rating_is_carried_for_ever() -> None:
    assert EDGE.hold_s(1.0) == math.inf
    assert EDGE.hold_s(0.0) == math.inf


@pytest.mark.parametrize(("load", "seconds"), [(1.1, 600.0), (1.5, 60.0), (2.0, 10.0)])
def test_the_edge_holds_at_its_points(load: float, seconds: float) -> None:
    assert EDGE.hold_s(load) == pytest.approx(seconds)


def test_beyond_its_points_the_edge_promises_no_more_than_there() -> None:
    assert EDGE.hold_s(1.001) == pytest.approx(600.0)
    assert EDGE.hold_s(9.0) == pytest.approx(10.0)


def test_between_points_the_edge_falls_without_a_step() -> None:
    loads = [1.1 + 0.01 * k for k in range(91)]
    holds = [EDGE.hold_s(load) for load in loads]
    assert holds == sorted(holds, reverse=True)
    assert EDGE.hold_s(math.sqrt(1.1 * 1.5)) == pytest.approx(math.sqrt(600.0 * 60.0))


def test_a_constant_overload_trips_exactly_at_the_edge() -> None:
    heat = Heat(EDGE)
    for _ in range(60):
        assert heat.ratio < 1.0
        heat.advance(1.5, 1.0)
    assert heat.ratio == pytest.approx(1.0)
    assert heat.left_s(1.5) == pytest.approx(0.0, abs=1e-9)


def test_heat_adds_up_over_different_overloads() -> None:
    heat = Heat(EDGE)
    heat.advance(1.1, 300.0)
    heat.advance(2.0, 4.0)
    assert heat.ratio == pytest.approx(0.5 + 0.4)
    assert heat.left_s(2.0) == pytest.approx(1.0)
    assert heat.left_s(0.9) == math.inf


def test_it_cools_with_its_time_constant_and_ends_cold() -> None:
    heat = Heat(EDGE)
    heat.advance(1.5, 30.0)
    heat.advance(1.0, 300.0)
    assert heat.ratio == pytest.approx(0.5 / math.e)
    for _ in range(30):
        heat.advance(0.2, 300.0)
    assert heat.ratio == 0.0


def test_many_small_steps_equal_one_large() -> None:
    fine, coarse = Heat(EDGE), Heat(EDGE)
    for load in (1.3, 0.8, 1.8):
        coarse.advance(load, 8.0)
        for _ in range(80):
            fine.advance(load, 0.1)
    assert fine.ratio == pytest.approx(coarse.ratio)
