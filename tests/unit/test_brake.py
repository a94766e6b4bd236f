"""When the emergency action is engaged and let go."""

import numpy as np
import pytest

from policies.brake import Brake, BrakeConfig
from tests.cores import fleet_of

BUDGET_W = np.array([1_000.0])


def watts(value: float) -> np.ndarray:
    return np.array([value])


def judged(brake: Brake, measured_w: float, now_s: float, bound_w: float | None = None) -> list[tuple[int, bool]]:
    return brake.judge(watts(measured_w), watts(measured_w if bound_w is None else bound_w), BUDGET_W, now_s)


def test_it_engages_above_the_budget_and_not_at_it() -> None:
    brake = Brake(1, BrakeConfig())
    assert judged(brake, 1_000.0, 0.0) == []
    assert judged(brake, 1_000.1, 1.0) == [(0, True)]
    assert judged(brake, 1_200.0, 2.0) == []


def test_an_excess_must_last() -> None:
    brake = Brake(1, BrakeConfig(after_s=2.0))
    assert judged(brake, 1_100.0, 0.0) == []
    assert judged(brake, 1_100.0, 1.0) == []
    assert judged(brake, 900.0, 1.5) == []
    assert judged(brake, 1_100.0, 2.0) == []
    assert judged(brake, 1_100.0, 4.0) == [(0, True)]


def test_it_is_let_go_well_below_the_budget_and_not_too_soon() -> None:
    brake = Brake(1, BrakeConfig(release_at=0.84, hold_s=5.0))
    judged(brake, 1_100.0, 0.0)
    assert judged(brake, 800.0, 4.9) == []
    assert judged(brake, 840.0, 5.0) == []
    assert judged(brake, 839.0, 6.0) == [(0, False)]
    assert not brake.any_engaged


def test_a_missing_reading_changes_nothing() -> None:
    brake = Brake(1, BrakeConfig(after_s=2.0, hold_s=0.0))
    judged(brake, 1_100.0, 0.0)
    judged(brake, np.nan, 1.0)
    assert judged(brake, 1_100.0, 2.0) == [(0, True)], "the excess has lasted all the same"
    assert judged(brake, np.nan, 9.0) == []
    assert brake.engaged.all()


def test_uncertainty_alone_does_not_engage_it() -> None:
    brake = Brake(1, BrakeConfig())
    assert judged(brake, 500.0, 0.0, bound_w=5_000.0) == []


def test_silence_does_not_let_it_go() -> None:
    brake = Brake(1, BrakeConfig(hold_s=0.0))
    judged(brake, 1_100.0, 0.0)
    assert judged(brake, 0.0, 9.0, bound_w=5_000.0) == []
    assert judged(brake, 0.0, 10.0, bound_w=500.0) == [(0, False)]


def test_constraints_are_judged_apart() -> None:
    brake = Brake(2, BrakeConfig(hold_s=0.0))
    budget_w = np.array([1_000.0, 2_000.0])
    both = np.array([1_100.0, 2_100.0])
    assert brake.judge(both, both, budget_w, 0.0) == [(0, True), (1, True)]
    one = np.array([500.0, 2_100.0])
    assert brake.judge(one, one, budget_w, 1.0) == [(0, False)]
    assert brake.engaged.tolist() == [False, True]


@pytest.mark.parametrize("engaged", [True, False])
def test_all_servers_of_an_engaged_constraint_are_braked(engaged: bool) -> None:
    brake = Brake(1, BrakeConfig())
    if engaged:
        judged(brake, 1_100.0, 0.0)
    assert brake.rows(fleet_of(3)).tolist() == [engaged] * 3
