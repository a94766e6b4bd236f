"""Whatever a policy proposes, the controller keeps its promise; and what the shipped ones share."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.arrays import ALL
from policies.commands import GrantLeases
from policies.controller_core import ControllerCore
from policies.events import Metered, Sampled, Ticked
from policies.invariants import ControllerWatch
from policies.policy import FleetView, Plan
from policies.registry import POLICIES, make_policy
from tests.cores import HARD, fleet_of, model_of, one_tree, spread

ODD = np.array([np.nan, np.inf, -np.inf, -1.0, 0.0, 1e300])


class Nonsense:
    """Proposes anything, sometimes the same thing again."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def propose(self, view: FleetView) -> Plan:
        n = view.drawn_w.size
        if isinstance(view.memory, Plan) and self.rng.random() < 0.4:
            return view.memory
        cap_w = np.where(self.rng.random(n) < 0.4, self.rng.choice(ODD, n), self.rng.uniform(0.0, 2e4, n))
        cap_mhz = np.where(self.rng.random(n) < 0.4, self.rng.choice(ODD, n), self.rng.uniform(0.0, 4e3, n))
        plan = Plan(cap_w, cap_mhz, None, "nonsense")
        return Plan(cap_w, cap_mhz, plan, "nonsense")


@settings(max_examples=80)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 8))
def test_no_proposal_takes_a_lease_out_of_range_or_the_sum_above_the_budget(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    fleet, over = fleet_of(n), one_tree(n)
    budget_w = np.array([n * 4_000.0 * rng.uniform(1.0, 2.4)])
    config = type(HARD)(**{**{f: getattr(HARD, f) for f in HARD.__slots__}, "budget_w": budget_w})
    core = ControllerCore(config, fleet, over, Nonsense(rng), model_of(n), rng.random(n))
    watch = ControllerWatch(core)
    held_w, lease_seq = fleet.failsafe_w.copy(), np.zeros(n, dtype=np.int64)
    for k in range(1, 60):
        drawn_w = held_w * rng.uniform(0.1, 1.0, n)
        drawn_w[rng.random(n) < 0.05] = np.nan
        ones = np.ones(n, dtype=np.int64)
        epoch = np.where(lease_seq > 0, 1, 0)
        sample = Sampled(
            ALL, 7 * ones, k * ones, 0.0, drawn_w, spread(900.0, n), held_w.copy(), epoch, lease_seq.copy()
        )
        core.step(sample, float(k))
        if rng.random() < 0.2:
            core.step(Metered(0, float(rng.uniform(0.0, 1.3) * budget_w[0]), 2.0), float(k))
        for command in core.step(Ticked(), float(k)):
            if isinstance(command, GrantLeases):
                lease = command.lease
                assert ((lease.cap_w >= fleet.failsafe_w) & (lease.cap_w <= fleet.nameplate_w)).all()
                assert ((lease.cap_mhz >= fleet.min_mhz) & (lease.cap_mhz <= fleet.max_mhz)).all()
                arrives = rng.random(n) < 0.8
                held_w = np.where(arrives, lease.cap_w, held_w)
                lease_seq = np.where(arrives, lease.seq, lease_seq)
        watch.check()
        assert over.total(held_w)[0] <= budget_w[0] + 1e-6
        assert (held_w <= core.charge_w() + 1e-6).all()


@settings(max_examples=60)
@given(name=st.sampled_from(list(POLICIES)), ratio=st.floats(0.0, 0.74), n=st.integers(1, 6))
def test_a_fleet_far_below_its_budget_is_left_alone(name: str, ratio: float, n: int) -> None:
    fleet = fleet_of(n)
    budget_w = np.array([n * 8_000.0])
    drawn_w = spread(ratio * 8_000.0, n)
    view = FleetView(
        0.0, fleet, model_of(n), drawn_w, fleet.max_mhz, budget_w, np.array([drawn_w.sum()]), np.array([False]), None
    )
    plan = make_policy(name).propose(view)
    assert np.isinf(plan.cap_w).all()
    assert (plan.cap_mhz >= fleet.max_mhz).all()


@settings(max_examples=60)
@given(
    name=st.sampled_from(["one-threshold-low", "one-threshold-all", "polca"]),
    ratios=st.lists(st.floats(0.0, 1.3), min_size=1, max_size=30),
)
def test_clock_policies_never_cap_high_priority_lower_than_low(name: str, ratios: list[float]) -> None:
    fleet, policy, memory = fleet_of(4), make_policy(name), None
    for k, ratio in enumerate(ratios):
        drawn_w, total_w = spread(ratio * 5_000.0, 4), np.array([ratio * 20_000.0])
        plan = policy.propose(
            FleetView(
                float(k),
                fleet,
                model_of(4),
                drawn_w,
                fleet.max_mhz,
                np.array([20_000.0]),
                total_w,
                np.array([False]),
                memory,
            )
        )
        memory = plan.memory
        assert plan.cap_mhz[1::2].min() >= plan.cap_mhz[::2].min()
