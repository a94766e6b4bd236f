"""The guard against nonsense, and against a twin that is slow and obvious."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.guard import EPSILON_W, Books, clipped_mhz, clipped_w, conserved, fitted
from policies.topology import Constraints
from tests.cores import fleet_of

seeds = st.integers(0, 2**32 - 1)
NONSENSE = np.array([np.nan, np.inf, -np.inf, -1.0, 0.0, 1e308])


def random_constraints(rng: np.random.Generator, n: int) -> Constraints:
    """Any servers with any shares: more than a tree can be."""
    columns, starts = [], [0]
    for _ in range(int(rng.integers(1, 5))):
        columns.append(np.sort(rng.choice(n, int(rng.integers(1, n + 1)), replace=False)))
        starts.append(starts[-1] + columns[-1].size)
    flat = np.concatenate(columns)
    share = rng.choice([0.25, 0.5, 1.0], flat.size)
    return Constraints(tuple(f"c{k}" for k in range(len(columns))), np.array(starts), flat, share)


def level_by_bisection(wanted_w: np.ndarray, floor_w: np.ndarray, share: np.ndarray, usable_w: float) -> float:
    """The common level, by halving the interval until nothing is left of it."""

    def total_w(level_w: float) -> float:
        return float((share * np.minimum(wanted_w, np.maximum(level_w, floor_w))).sum())

    low, high = 0.0, float(wanted_w.max())
    for _ in range(200):
        middle = (low + high) / 2.0
        low, high = (middle, high) if total_w(middle) <= usable_w else (low, middle)
    return low


@given(seed=seeds, n=st.integers(1, 30))
def test_one_constraint_is_cut_to_the_level_that_bisection_finds(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    floor_w = rng.uniform(500.0, 2_000.0, n)
    wanted_w = floor_w + rng.choice([0.0, 1.0], n) * rng.uniform(0.0, 5_000.0, n)
    share = rng.choice([0.3, 0.5, 1.0], n)
    over = Constraints(("c",), np.array([0, n]), np.arange(n), share)
    lowest_w, highest_w = float(share @ floor_w), float(share @ wanted_w)
    usable_w = rng.uniform(lowest_w, highest_w)
    level_w = level_by_bisection(wanted_w, floor_w, share, usable_w)
    expected_w = np.minimum(wanted_w, np.maximum(level_w, floor_w))
    fit_w = fitted(wanted_w, floor_w, over, np.array([usable_w]))
    assert fit_w == pytest.approx(expected_w, rel=1e-6, abs=1e-3)


@settings(max_examples=200)
@given(seed=seeds, n=st.integers(1, 20))
def test_fitted_caps_fit_every_constraint_whose_floors_do(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    over = random_constraints(rng, n)
    floor_w = rng.uniform(500.0, 2_000.0, n)
    wanted_w = floor_w + rng.uniform(0.0, 8_000.0, n)
    floors_w = over.total(floor_w)
    usable_w = floors_w * rng.uniform(0.8, 4.0, over.count)
    fit_w = fitted(wanted_w, floor_w, over, usable_w)
    assert (fit_w <= wanted_w).all()
    assert (fit_w >= floor_w - EPSILON_W).all()
    feasible = floors_w <= usable_w
    assert (over.total(fit_w)[feasible] <= usable_w[feasible] + EPSILON_W).all()


@settings(max_examples=200)
@given(seed=seeds, n=st.integers(1, 20))
def test_nonsense_ends_inside_the_range(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    fleet = fleet_of(n)
    proposed = np.where(rng.random(n) < 0.6, rng.choice(NONSENSE, n), rng.uniform(-1e4, 2e4, n))
    caps_w = clipped_w(proposed, fleet.failsafe_w + rng.uniform(0.0, 5_000.0, n), fleet)
    assert ((caps_w >= fleet.failsafe_w) & (caps_w <= fleet.nameplate_w)).all()
    caps_mhz = clipped_mhz(proposed, np.full(n, 900.0), fleet)
    assert ((caps_mhz >= fleet.min_mhz) & (caps_mhz <= fleet.max_mhz)).all()


@settings(max_examples=300)
@given(seed=seeds, n=st.integers(1, 20))
def test_raises_take_only_watts_that_are_certainly_free(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    over, fleet = random_constraints(rng, n), fleet_of(n)
    granted_w = rng.uniform(4_000.0, 10_200.0, n)
    possible_w = np.where(rng.random(n) < 0.6, granted_w, granted_w + rng.uniform(0.0, 4_000.0, n))
    certain = rng.random(n) < 0.8
    target_w = rng.uniform(4_000.0, 10_200.0, n)
    charged_w = over.total(np.maximum(possible_w, fleet.failsafe_w))
    usable_w = charged_w * rng.uniform(0.7, 1.5, over.count)
    raise_w = rng.choice([0.0, 500.0, np.inf], over.count)
    given_w = conserved(target_w, Books(granted_w, possible_w, certain), fleet, over, usable_w, raise_w)

    lowered = target_w <= granted_w
    assert given_w[lowered].tolist() == target_w[lowered].tolist(), "lowerings are never held up"
    assert (given_w <= np.maximum(target_w, granted_w) + EPSILON_W).all()
    assert (given_w[~lowered] >= granted_w[~lowered]).all()
    assert (given_w[~certain] <= granted_w[~certain]).all(), "uncertainty forbids raises"
    after_w = over.total(np.maximum(np.maximum(possible_w, given_w), fleet.failsafe_w))
    assert (after_w <= np.maximum(usable_w, charged_w) + 1e-3).all(), "I1"
    rises_w = over.total(np.maximum(given_w - granted_w, 0.0))
    assert (rises_w <= raise_w + 1e-3).all(), "I5"


@settings(max_examples=100)
@given(seed=seeds, n=st.integers(1, 12))
def test_what_is_wanted_and_fits_is_reached_in_the_end(seed: int, n: int) -> None:
    """Raising a little each second with everything proven at once: nothing is stuck short of its target."""
    rng = np.random.default_rng(seed)
    over, fleet = random_constraints(rng, n), fleet_of(n)
    usable_w = over.total(fleet.failsafe_w) * rng.uniform(1.0, 2.5, over.count)
    wanted_w = fitted(rng.uniform(4_000.0, 10_200.0, n), fleet.failsafe_w, over, usable_w)
    granted_w = fleet.failsafe_w.copy()
    for _ in range(300):
        books = Books(granted_w, granted_w, np.ones(n, dtype=np.bool_))
        granted_w = conserved(wanted_w, books, fleet, over, usable_w, usable_w * 0.05)
    assert granted_w == pytest.approx(wanted_w, rel=1e-6)
