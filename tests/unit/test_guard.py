"""The envelope no policy can leave."""

import numpy as np
import pytest

from policies.guard import Books, clipped_mhz, clipped_w, conserved, fitted, unclocked
from policies.topology import Constraints, Topology
from tests.cores import MAX_MHZ, MIN_MHZ, fleet_of, one_tree, spread

NONE_W = np.array([np.inf])


def two_rows() -> Constraints:
    """Four servers, a site over all and a row over each pair."""
    topology = Topology(["site", "a", "b"], [-1, 0, 0], np.array([1, 1, 2, 2]))
    return Constraints.of_tree(topology, [0, 1, 2])


def test_watts_end_between_failsafe_and_nameplate() -> None:
    proposed_w = np.array([-5.0, 0.0, 5_000.0, np.inf, -np.inf, np.nan])
    clipped = clipped_w(proposed_w, spread(6_000.0, 6), fleet_of(6))
    assert clipped.tolist() == [4_000.0, 4_000.0, 5_000.0, 10_200.0, 4_000.0, 6_000.0]


def test_clocks_end_inside_the_device_range() -> None:
    proposed_mhz = np.array([0.0, 1_200.0, np.inf, np.nan])
    clipped = clipped_mhz(proposed_mhz, spread(900.0, 4), fleet_of(4))
    assert clipped.tolist() == [MIN_MHZ, 1_200.0, MAX_MHZ, 900.0]


def test_caps_that_fit_are_left_alone() -> None:
    wanted_w = np.array([4_000.0, 9_000.0])
    assert fitted(wanted_w, spread(4_000.0, 2), one_tree(2), np.array([13_000.0])) is wanted_w


def test_the_largest_caps_are_cut_first_to_one_level() -> None:
    wanted_w = np.array([4_500.0, 8_000.0, 10_000.0])
    fit_w = fitted(wanted_w, spread(4_000.0, 3), one_tree(3), np.array([16_500.0]))
    assert fit_w.tolist() == [4_500.0, 6_000.0, 6_000.0]


def test_no_cap_is_cut_below_its_floor() -> None:
    wanted_w, floor_w = np.array([9_000.0, 9_000.0]), np.array([7_000.0, 2_000.0])
    assert fitted(wanted_w, floor_w, one_tree(2), np.array([10_000.0])).tolist() == [7_000.0, 3_000.0]


def test_floors_above_the_budget_are_returned_as_they_are() -> None:
    fit_w = fitted(spread(9_000.0, 2), spread(4_000.0, 2), one_tree(2), np.array([7_000.0]))
    assert fit_w.tolist() == [4_000.0, 4_000.0]


def test_a_cut_in_one_constraint_is_seen_by_the_next() -> None:
    usable_w = np.array([30_000.0, 12_000.0, 40_000.0])
    fit_w = fitted(spread(10_000.0, 4), spread(4_000.0, 4), two_rows(), usable_w)
    assert two_rows().total(fit_w) == pytest.approx([30_000.0, 12_000.0, 18_000.0])


def books(granted_w: list[float], possible_w: list[float] | None = None, certain: list[bool] | None = None) -> Books:
    possible = granted_w if possible_w is None else possible_w
    sure = [True] * len(granted_w) if certain is None else certain
    return Books(np.array(granted_w), np.array(possible), np.array(sure))


def test_lowerings_are_immediate_whatever_is_known() -> None:
    given_w = conserved(
        spread(4_000.0, 2),
        books([9_000.0, 9_000.0], [10_200.0] * 2, [False] * 2),
        fleet_of(2),
        one_tree(2),
        np.array([9_000.0]),
        np.array([0.0]),
    )
    assert given_w.tolist() == [4_000.0, 4_000.0]


def test_watts_are_raised_only_once_they_are_free() -> None:
    """Server 0 gives up 4,000 W in this very step; nobody may have them before that is proven."""
    target_w, budget_w = np.array([5_000.0, 10_000.0]), np.array([15_000.0])
    fleet, over = fleet_of(2), one_tree(2)
    assert conserved(target_w, books([9_000.0, 6_000.0]), fleet, over, budget_w, NONE_W).tolist() == [5_000.0, 6_000.0]
    unproven = books([5_000.0, 6_000.0], [9_000.0, 6_000.0])
    assert conserved(target_w, unproven, fleet, over, budget_w, NONE_W).tolist() == [5_000.0, 6_000.0]
    proven = books([5_000.0, 6_000.0])
    assert conserved(target_w, proven, fleet, over, budget_w, NONE_W).tolist() == [5_000.0, 10_000.0]


def test_free_watts_are_shared_in_proportion_to_what_is_asked() -> None:
    target_w = np.array([6_000.0, 8_000.0])
    given_w = conserved(target_w, books([4_000.0, 4_000.0]), fleet_of(2), one_tree(2), np.array([11_000.0]), NONE_W)
    assert given_w.tolist() == [5_000.0, 6_000.0]


def test_raising_is_rate_limited() -> None:
    target_w = spread(10_000.0, 2)
    given_w = conserved(
        target_w, books([4_000.0, 4_000.0]), fleet_of(2), one_tree(2), np.array([20_000.0]), np.array([1_000.0])
    )
    assert given_w.tolist() == [4_500.0, 4_500.0]


def test_a_cap_that_is_not_confirmed_is_not_raised_even_within_its_charge() -> None:
    target_w = np.array([10_000.0, 4_000.0])
    given_w = conserved(
        target_w, books([5_000.0, 4_000.0], [9_000.0, 4_000.0]), fleet_of(2), one_tree(2), np.array([20_000.0]), NONE_W
    )
    assert given_w.tolist() == [5_000.0, 4_000.0]


def test_uncertain_servers_are_not_raised() -> None:
    target_w = spread(6_000.0, 2)
    doubtful = books([4_000.0, 4_000.0], certain=[True, False])
    assert conserved(target_w, doubtful, fleet_of(2), one_tree(2), np.array([20_000.0]), NONE_W).tolist() == [
        6_000.0,
        4_000.0,
    ]


def test_nothing_is_raised_under_a_constraint_whose_charges_exceed_it() -> None:
    """Row a is over its budget by an unheard server; row b is not, and the site is not."""
    held = books([4_000.0] * 4, [10_200.0, 4_000.0, 4_000.0, 4_000.0])
    usable_w = np.array([40_000.0, 12_000.0, 20_000.0])
    given_w = conserved(spread(8_000.0, 4), held, fleet_of(4), two_rows(), usable_w, np.full(3, np.inf))
    assert given_w.tolist() == [4_000.0, 4_000.0, 8_000.0, 8_000.0]


def test_a_server_below_failsafe_is_still_charged_failsafe() -> None:
    given_w = conserved(
        np.array([4_000.0, 9_000.0]), books([3_000.0, 4_000.0]), fleet_of(2), one_tree(2), np.array([8_000.0]), NONE_W
    )
    assert given_w[1] == 4_000.0


def test_clocks_rise_a_few_at_a_time_in_the_scattered_order() -> None:
    standing, order = spread(600.0, 4), np.array([0.4, 0.1, 0.3, 0.2])
    assert unclocked(spread(900.0, 4), standing, order, 2).tolist() == [600.0, 900.0, 600.0, 900.0]


def test_clocks_fall_all_at_once() -> None:
    wanted = np.array([300.0, 300.0, 900.0])
    assert unclocked(wanted, spread(600.0, 3), np.zeros(3), 1).tolist() == [300.0, 300.0, 900.0]
