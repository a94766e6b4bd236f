"""Ladders of clock caps that follow a domain's power."""

from dataclasses import replace

import numpy as np
import pytest

from policies.errors import ConfigError
from policies.policy import Fleet, FleetView, Plan, Policy
from policies.registry import POLICIES, make_policy
from policies.thresholds import DomainMemory, Ladder, OnlineThresholds, Stage, Standing, Thresholds
from policies.topology import Constraints, Topology
from tests.cores import MAX_MHZ, fleet_of, model_of, spread

BUDGET_W = 10_000.0
LOW, HIGH = slice(0, None, 2), slice(1, None, 2)


class Domain:
    """A policy over one or more domains, told one reading after another."""

    def __init__(self, policy: Policy, fleet: Fleet | None = None, budgets: int = 1) -> None:
        self.policy = policy
        self.fleet = fleet_of(4, cap_latency_s=38.0) if fleet is None else fleet
        self.budget_w = spread(BUDGET_W, budgets)
        self.braked = np.zeros(budgets, dtype=np.bool_)
        self.memory: object | None = None
        self.cap_mhz = self.fleet.max_mhz

    def reads(self, *ratios: float, now_s: float) -> Plan:
        n = self.fleet.nameplate_w.size
        view = FleetView(
            now_s=now_s,
            fleet=self.fleet,
            model=model_of(n),
            drawn_w=spread(2_500.0, n),
            cap_mhz=self.cap_mhz,
            budget_w=self.budget_w,
            constraint_w=np.array(ratios) * BUDGET_W,
            braked=self.braked,
            memory=self.memory,
        )
        plan = self.policy.propose(view)
        self.memory = plan.memory
        return plan

    def place(self) -> DomainMemory:
        """Where the only domain stands."""
        assert isinstance(self.memory, Standing)
        (place,) = self.memory.places
        return place

    def stage(self, *ratios: float, now_s: float) -> str:
        return self.reads(*ratios, now_s=now_s).because


def polca(**overrides: float) -> Domain:
    return Domain(make_policy("polca", overrides))


def test_no_cap_caps_nothing_whatever_is_drawn() -> None:
    domain = Domain(make_policy("no-cap"))
    for k, ratio in enumerate([0.5, 1.5, np.nan, 0.1]):
        plan = domain.reads(ratio, now_s=float(k))
        assert (plan.cap_mhz == MAX_MHZ).all()
        assert np.isinf(plan.cap_w).all()


def test_polca_caps_low_priority_first_then_deeper_then_everybody() -> None:
    domain = polca()
    assert domain.stage(0.80, now_s=0.0) == "stage 0"
    plan = domain.reads(0.81, now_s=1.0)
    assert (plan.cap_mhz[LOW] == 1_275.0).all()
    assert (plan.cap_mhz[HIGH] == MAX_MHZ).all()
    plan = domain.reads(0.90, now_s=2.0)
    assert (plan.cap_mhz[LOW] == 1_110.0).all()
    assert (plan.cap_mhz[HIGH] == MAX_MHZ).all()
    effect_s = domain.fleet.effect_s
    assert domain.stage(0.90, now_s=2.0 + effect_s - 1.0) == "stage 2"
    plan = domain.reads(0.90, now_s=2.0 + effect_s)
    assert (plan.cap_mhz[HIGH] == 1_305.0).all()


def test_a_jump_over_both_thresholds_climbs_to_the_stage_that_waits() -> None:
    assert polca().stage(0.95, now_s=0.0) == "stage 2"


def test_a_given_wait_replaces_the_effect_time() -> None:
    domain = polca(wait_s=5.0)
    domain.reads(0.95, now_s=0.0)
    assert domain.stage(0.95, now_s=4.9) == "stage 2"
    assert domain.stage(0.95, now_s=5.0) == "stage 3"


def test_stages_are_left_below_their_threshold_less_hysteresis() -> None:
    domain = polca(wait_s=0.0)
    domain.reads(0.95, now_s=0.0)
    assert domain.stage(0.95, now_s=1.0) == "stage 3"
    assert domain.stage(0.84, now_s=2.0) == "stage 3"
    assert domain.stage(0.8399, now_s=3.0) == "stage 1", "both deep stages share their threshold"
    assert domain.stage(0.76, now_s=4.0) == "stage 1"
    assert domain.stage(0.7499, now_s=5.0) == "stage 0"


def test_a_missing_reading_changes_nothing() -> None:
    domain = polca()
    domain.reads(0.85, now_s=0.0)
    before = domain.memory
    assert domain.stage(np.nan, now_s=1.0) == "stage 1"
    assert domain.memory is before


def test_the_same_plan_is_the_same_object() -> None:
    domain = polca()
    first = domain.reads(0.85, now_s=0.0)
    again = domain.reads(0.82, now_s=1.0)
    assert first.cap_mhz is again.cap_mhz
    assert first.cap_w is again.cap_w


def test_after_a_brake_the_deepest_stage_holds_until_power_says_otherwise() -> None:
    domain = polca()
    domain.braked = np.array([True])
    assert domain.stage(0.30, now_s=0.0) == "stage 3"
    domain.braked = np.array([False])
    assert domain.stage(0.86, now_s=1.0) == "stage 3"
    assert domain.stage(0.60, now_s=2.0) == "stage 0"


@pytest.mark.parametrize(("name", "high_mhz"), [("one-threshold-low", MAX_MHZ), ("one-threshold-all", 1_110.0)])
def test_one_threshold_caps_its_classes_at_once(name: str, high_mhz: float) -> None:
    plan = Domain(make_policy(name)).reads(0.90, now_s=0.0)
    assert (plan.cap_mhz[LOW] == 1_110.0).all()
    assert (plan.cap_mhz[HIGH] == high_mhz).all()


def test_a_server_in_two_domains_obeys_the_stricter() -> None:
    topology = Topology(["site", "a", "b"], [-1, 0, 0], np.array([1, 1, 2, 2]))
    over = Constraints.of_tree(topology, [1, 2])
    domain = Domain(make_policy("one-threshold-all"), fleet_of(4, over), 2)
    plan = domain.reads(0.95, 0.5, now_s=0.0)
    assert plan.cap_mhz.tolist() == [1_110.0, 1_110.0, MAX_MHZ, MAX_MHZ]
    nested = Domain(make_policy("polca"), fleet_of(4, Constraints.of_tree(topology, [0, 1])), 2)
    plan = nested.reads(0.85, 0.95, now_s=0.0)
    assert plan.cap_mhz.tolist() == [1_110.0, MAX_MHZ, 1_275.0, MAX_MHZ]


class TestOnline:
    def online(self) -> Domain:
        return Domain(make_policy("polca-online"))

    def upper(self, domain: Domain) -> float:
        policy = domain.policy
        assert isinstance(policy, OnlineThresholds)
        place = domain.place()
        return policy.ladder_of(place).stages[-1].at

    def test_it_starts_from_the_preset(self) -> None:
        domain = self.online()
        domain.reads(0.5, now_s=0.0)
        assert self.upper(domain) == pytest.approx(0.89)

    def test_a_larger_rise_lowers_the_upper_threshold(self) -> None:
        domain = self.online()
        domain.reads(0.50, now_s=0.0)
        domain.reads(0.65, now_s=30.0)
        assert self.upper(domain) == pytest.approx(0.85)

    def test_a_rise_slower_than_the_actuation_counts_only_in_part(self) -> None:
        domain = self.online()
        for k in range(100):
            domain.reads(0.30 + 0.005 * k, now_s=2.0 * k)
        assert self.upper(domain) == pytest.approx(0.89), "19 steps of 0.005 in 38 s are 0.095"

    def test_it_never_falls_below_the_lower_threshold(self) -> None:
        domain = self.online()
        domain.reads(0.1, now_s=0.0)
        domain.reads(0.7, now_s=2.0)
        assert self.upper(domain) == pytest.approx(0.80)

    def test_after_a_day_what_was_seen_replaces_the_preset(self) -> None:
        domain = self.online()
        domain.reads(0.50, now_s=0.0)
        domain.reads(0.52, now_s=2.0)
        domain.reads(0.52, now_s=OnlineThresholds.LEARN_S - 1.0)
        assert self.upper(domain) == pytest.approx(0.89)
        domain.reads(0.52, now_s=OnlineThresholds.LEARN_S)
        assert self.upper(domain) == pytest.approx(0.98)

    def test_it_remembers_no_more_than_one_actuation(self) -> None:
        domain = self.online()
        for k in range(1_000):
            domain.reads(0.5, now_s=float(k))
        place = domain.place()
        assert len(place.readings) <= 40


def test_a_ladder_of_no_stages_has_none_to_climb() -> None:
    assert Domain(Thresholds(Ladder(()))).stage(2.0, now_s=0.0) == "stage 0"


def test_a_place_is_kept_as_it_is_while_nothing_changes() -> None:
    ladder = Ladder((Stage(0.8, 900.0, np.inf),))
    domain = Domain(Thresholds(ladder))
    domain.reads(0.9, now_s=3.0)
    place = domain.place()
    assert place == replace(DomainMemory(), mode=1, since_s=3.0)


class TestRegistry:
    def test_an_unknown_policy_is_refused_with_the_known_ones(self) -> None:
        with pytest.raises(ConfigError, match=r"'polka' is not known; there are no-cap.*polca"):
            make_policy("polka")

    def test_an_unknown_parameter_is_refused_with_the_known_ones(self) -> None:
        with pytest.raises(ConfigError, match="no parameter 't3'; it has t1, t2"):
            make_policy("polca", {"t3": 1.0})
        with pytest.raises(ConfigError, match="it has none"):
            make_policy("no-cap", {"t1": 1.0})

    @pytest.mark.parametrize("bad", [{"t1": 0.9}, {"t1": 0.0}, {"t2": 1.1}, {"t1": np.nan}, {"t2": np.nan}])
    def test_thresholds_out_of_order_are_refused(self, bad: dict[str, float]) -> None:
        with pytest.raises(ConfigError, match="0 < t1 < t2 <= 1"):
            make_policy("polca", bad)

    @pytest.mark.parametrize("name", POLICIES)
    def test_every_policy_is_made_with_its_defaults(self, name: str) -> None:
        assert Domain(make_policy(name)).reads(0.5, now_s=0.0).cap_w.size == 4
