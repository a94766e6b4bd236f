"""A power cap for everybody once a domain is nearly full."""

from dataclasses import replace

import numpy as np
import pytest

from policies.fair_share import FairShare, FairShareParams
from policies.models.gpu_power import clock_factor
from policies.policy import FleetView, Plan
from policies.topology import Constraints, Topology
from tests.cores import MAX_MHZ, fleet_of, model_of, spread

N, BUDGET_W = 4, 20_000.0
FLEET = fleet_of(N, nameplate_w=[6_000.0, 6_000.0, 12_000.0, 12_000.0])
OPEN = FleetView(
    now_s=0.0,
    fleet=FLEET,
    model=model_of(N),
    drawn_w=spread(3_000.0, N),
    cap_mhz=spread(MAX_MHZ, N),
    budget_w=np.array([BUDGET_W]),
    constraint_w=np.array([12_000.0]),
    braked=np.array([False]),
    memory=None,
)
POLICY = FairShare(FairShareParams())


def after(plan: Plan, total_w: float, **changes: object) -> FleetView:
    """The next view, with every server drawing a quarter."""
    view = replace(OPEN, memory=plan.memory, drawn_w=spread(total_w / N, N), constraint_w=np.array([total_w]))
    return replace(view, **changes)  # type: ignore[arg-type]


def full() -> Plan:
    return POLICY.propose(after(POLICY.propose(OPEN), 0.90 * BUDGET_W))


def test_a_domain_with_room_is_not_capped() -> None:
    plan = POLICY.propose(OPEN)
    assert np.isinf(plan.cap_w).all()
    assert plan.because == "open"


def test_a_full_domain_is_shared_by_nameplate() -> None:
    plan = full()
    assert plan.cap_w.sum() == pytest.approx(0.97 * BUDGET_W)
    assert plan.cap_w[2] == pytest.approx(2.0 * plan.cap_w[0])


def test_priority_does_not_matter() -> None:
    plan = full()
    assert plan.cap_w[0] == plan.cap_w[1]


def test_it_is_released_when_demand_has_fallen_not_when_caps_hold_it() -> None:
    plan = full()
    plan = POLICY.propose(after(plan, 0.86 * BUDGET_W))
    assert np.isfinite(plan.cap_w).all()
    factor = clock_factor(0.6, 0.3, 2.4)
    held_back = POLICY.propose(after(plan, 0.80 * BUDGET_W, cap_mhz=spread(0.6 * MAX_MHZ, N)))
    assert factor < 0.7
    assert np.isfinite(held_back.cap_w).all()
    assert np.isinf(POLICY.propose(after(held_back, 0.80 * BUDGET_W)).cap_w).all()


def test_what_is_not_known_is_no_reason_to_release() -> None:
    plan = full()
    unknown = after(plan, 0.5 * BUDGET_W, drawn_w=np.array([np.nan, 1_000.0, 1_000.0, 1_000.0]))
    assert np.isfinite(POLICY.propose(unknown).cap_w).all()
    silent = after(plan, 0.5 * BUDGET_W, constraint_w=np.array([np.nan]))
    assert np.isfinite(POLICY.propose(silent).cap_w).all()


def test_a_missing_reading_caps_nothing() -> None:
    silent = replace(OPEN, constraint_w=np.array([np.nan]))
    assert np.isinf(POLICY.propose(silent).cap_w).all()


def test_a_brake_caps() -> None:
    assert np.isfinite(POLICY.propose(replace(OPEN, braked=np.array([True]))).cap_w).all()


def test_shares_follow_a_budget_that_changes_meanwhile() -> None:
    plan = full()
    lower = after(plan, 0.9 * 10_000.0, budget_w=np.array([10_000.0]))
    assert POLICY.propose(lower).cap_w.sum() == pytest.approx(9_700.0)


def test_the_same_plan_is_the_same_object() -> None:
    plan = full()
    again = POLICY.propose(after(plan, 0.91 * BUDGET_W))
    assert again.cap_w is plan.cap_w
    assert again.cap_mhz is plan.cap_mhz


def test_only_full_domains_are_capped_and_the_stricter_share_counts() -> None:
    topology = Topology(["site", "a", "b"], [-1, 0, 0], np.array([1, 1, 2, 2]))
    over = Constraints.of_tree(topology, [0, 1])
    fleet = fleet_of(N, over)
    view = replace(
        OPEN,
        fleet=fleet,
        budget_w=np.array([30_000.0, 8_000.0]),
        constraint_w=np.array([27_000.0, 7_900.0]),
        braked=np.zeros(2, dtype=np.bool_),
    )
    plan = POLICY.propose(view)
    assert plan.cap_w.tolist() == pytest.approx([3_880.0, 3_880.0, 7_275.0, 7_275.0])


def test_a_share_of_a_servers_watts_does_not_keep_a_feed_capped_for_ever() -> None:
    """A feed that carries four tenths of the servers: its meter reads less than they draw."""
    view = after(full(), 0.3 * BUDGET_W, drawn_w=spread(0.3 * BUDGET_W / 0.4 / N, N))
    assert view.drawn_w.sum() == pytest.approx(0.75 * BUDGET_W)
    assert np.isinf(POLICY.propose(view).cap_w).all()
    loaded = after(full(), 0.8 * BUDGET_W, drawn_w=spread(0.8 * BUDGET_W / 0.4 / N, N))
    assert np.isinf(POLICY.propose(loaded).cap_w).all()
