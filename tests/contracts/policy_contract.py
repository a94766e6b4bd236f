"""What every policy must do; a new one inherits this class and names itself, a third party's does the same."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policies.arrays import Ints
from policies.models.fleet import FleetModel
from policies.policy import Fleet, FleetView, Plan, Policy

EXAMPLES = 40
STEPS = 12


def fleet_and_model(rng: np.random.Generator, n: int, constraints: int) -> tuple[Fleet, FleetModel]:
    """Random servers; the first constraint holds all of them."""
    members = [np.arange(n)]
    for _ in range(constraints - 1):
        members.append(np.sort(rng.choice(n, int(rng.integers(1, n + 1)), replace=False)))
    nameplate_w = rng.uniform(3_000.0, 10_000.0, n)
    max_mhz = np.full(n, 1_410.0)
    fleet = Fleet(
        priority=rng.integers(0, 2, n),
        nameplate_w=nameplate_w,
        failsafe_w=nameplate_w * 0.4,
        max_mhz=max_mhz,
        min_mhz=np.full(n, 210.0),
        members=tuple(members),
        cap_latency_s=float(rng.choice([1.0, 38.0])),
        effect_s=float(rng.choice([3.0, 42.0])),
    )
    return fleet, FleetModel(nameplate_w * 0.15, rng.uniform(0.2, 0.4, n), rng.uniform(2.0, 3.0, n), max_mhz)


def random_views(seed: int, n: int, constraints: int) -> list[FleetView]:
    """A fleet and what happens to it over some time; memory is filled in by whoever plays it."""
    rng = np.random.default_rng(seed)
    fleet, model = fleet_and_model(rng, n, constraints)
    budget_w = np.array([0.7 * fleet.nameplate_w[m].sum() for m in fleet.members])
    views = []
    now_s = 0.0
    for _ in range(STEPS):
        now_s += float(rng.choice([1.0, 2.0, 30.0]))
        drawn_w = fleet.nameplate_w * rng.uniform(0.1, 1.0, n)
        drawn_w[rng.random(n) < 0.05] = np.nan
        constraint_w = budget_w * rng.uniform(0.5, 1.15, constraints)
        constraint_w[rng.random(constraints) < 0.1] = np.nan
        if rng.random() < 0.2:
            budget_w = budget_w * rng.uniform(0.8, 1.1)
        views.append(
            FleetView(
                now_s=now_s,
                fleet=fleet,
                model=model,
                drawn_w=drawn_w,
                cap_mhz=rng.choice([1_410.0, 1_110.0], n),
                budget_w=budget_w,
                constraint_w=constraint_w,
                braked=rng.random(constraints) < 0.1,
                memory=None,
            )
        )
    return views


def shuffled(view: FleetView, order: Ints) -> FleetView:
    """The same instant with server `order[k]` in place k."""
    place = np.argsort(order)
    fleet = view.fleet
    turned = {f.name: getattr(fleet, f.name)[order] for f in fields(Fleet) if f.name[-2:] in ("_w", "hz", "ty")}
    model = FleetModel(**{f.name: getattr(view.model, f.name)[order] for f in fields(FleetModel)})
    members = tuple(np.sort(place[m]) for m in fleet.members)
    other = replace(fleet, **turned, members=members)
    return replace(view, fleet=other, model=model, drawn_w=view.drawn_w[order], cap_mhz=view.cap_mhz[order])


def played(policy: Policy, views: list[FleetView]) -> list[Plan]:
    """Plans for a sequence of views, each with the memory of the plan before."""
    plans: list[Plan] = []
    for view in views:
        plans.append(policy.propose(replace(view, memory=plans[-1].memory if plans else None)))
    return plans


def lock(view: FleetView) -> dict[str, bytes]:
    """Forbid writing to every array of a view, and keep what is in them."""
    arrays = {}
    for holder in (view, view.fleet, view.model):
        for field in fields(holder):
            value = getattr(holder, field.name)
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
                arrays[f"{type(holder).__name__}.{field.name}"] = value.tobytes()
    return arrays


# One policy for all examples on purpose: it has no state, so nothing of an example may be left for the next.
pure = settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
scenes = given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 9), constraints=st.integers(1, 3))


class PolicyContract:
    """Inherit, and give `policy` a fixture that makes a fresh one."""

    @pytest.fixture
    def policy(self) -> Policy:
        raise NotImplementedError("a contract is tested for somebody: provide the fixture `policy`")

    @pure
    @scenes
    def test_it_is_deterministic(self, policy: Policy, seed: int, n: int, constraints: int) -> None:
        first = played(policy, random_views(seed, n, constraints))
        again = played(policy, random_views(seed, n, constraints))
        for one, other in zip(first, again, strict=True):
            assert one.cap_w.tobytes() == other.cap_w.tobytes()
            assert one.cap_mhz.tobytes() == other.cap_mhz.tobytes()
            assert one.because == other.because

    @pure
    @scenes
    def test_its_caps_are_positive_numbers_or_infinite(
        self, policy: Policy, seed: int, n: int, constraints: int
    ) -> None:
        for plan in played(policy, random_views(seed, n, constraints)):
            for caps in (plan.cap_w, plan.cap_mhz):
                assert caps.shape == (n,)
                assert (caps > 0.0).all(), "NaN, zero and below are no caps"

    @pure
    @scenes
    def test_servers_in_another_order_get_the_same_caps(
        self, policy: Policy, seed: int, n: int, constraints: int
    ) -> None:
        views = random_views(seed, n, constraints)
        order = np.random.default_rng(seed + 1).permutation(n)
        plans = played(policy, views)
        turned = played(policy, [shuffled(view, order) for view in views])
        for plan, other in zip(plans, turned, strict=True):
            assert other.cap_w == pytest.approx(plan.cap_w[order])
            assert other.cap_mhz == pytest.approx(plan.cap_mhz[order])

    @pure
    @scenes
    def test_it_never_changes_what_it_sees(self, policy: Policy, seed: int, n: int, constraints: int) -> None:
        views = random_views(seed, n, constraints)
        before = [lock(view) for view in views]
        played(policy, views)
        assert [lock(view) for view in views] == before

    @pure
    @scenes
    def test_it_remembers_nothing_but_what_it_is_handed_back(
        self, policy: Policy, seed: int, n: int, constraints: int
    ) -> None:
        """Other fleets in between, or the same view twice, make no difference."""
        views = random_views(seed, n, constraints)
        plans = played(policy, views)
        played(policy, random_views(seed + 1, n, constraints))
        last = policy.propose(replace(views[-1], memory=plans[-2].memory))
        assert last.cap_w.tobytes() == plans[-1].cap_w.tobytes()
        assert last.cap_mhz.tobytes() == plans[-1].cap_mhz.tobytes()

    @pure
    @scenes
    def test_plans_handed_out_earlier_do_not_change(self, policy: Policy, seed: int, n: int, constraints: int) -> None:
        """The core takes the same array for 'unchanged'."""
        kept, memory = [], None
        for view in random_views(seed, n, constraints):
            plan = policy.propose(replace(view, memory=memory))
            memory = plan.memory
            kept.append((plan, plan.cap_w.copy(), plan.cap_mhz.copy()))
        for plan, cap_w, cap_mhz in kept:
            assert plan.cap_w.tobytes() == cap_w.tobytes()
            assert plan.cap_mhz.tobytes() == cap_mhz.tobytes()
