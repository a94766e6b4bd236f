"""The real cores over the plant: every policy, guarantee and path, with the invariants after every second."""

from dataclasses import replace

import numpy as np
import pytest

from policies import POLICIES
from policies.arrays import Vec
from policies.brake import BrakeConfig
from policies.commands import Command, EngageBrake, GrantLeases, Publish, ReleaseBrake, SetCaps
from policies.events import ControllerEvent, Metered, Sampled
from policies.modes import Mode
from sim_backend.closed_loop import ClosedLoop, RunSpec
from sim_backend.fleet import build_servers
from sim_backend.meter import window_means
from sim_backend.plant import Plant
from sim_backend.site import IN_BAND, OUT_OF_BAND, Actuation, Domain, Guarantee, Site
from tests.twin.plant_cases import ListSource, requests
from tests.twin.small_site import FAILSAFE_W, WaveSource, hard_site, site_of

CALM_RPS, BUSY_RPS = 0.2, 1.5
WAVES = ((90.0, CALM_RPS), (240.0, BUSY_RPS), (120.0, CALM_RPS), (180.0, BUSY_RPS), (150.0, 0.05))
"""Six servers draw 10.6 kW idle and about 20 kW when busy, 24 kW for single seconds."""
ROOMY_W, TIGHT_W = 26_000.0, 21_000.0
OOB_REACTIVE = pytest.param(OUT_OF_BAND, Guarantee.REACTIVE, id="out-of-band")
IN_BAND_REACTIVE = pytest.param(IN_BAND, Guarantee.REACTIVE, id="in-band")
IN_BAND_HARD = pytest.param(IN_BAND, Guarantee.HARD, id="hard")
EVERYWHERE = (OOB_REACTIVE, IN_BAND_REACTIVE, IN_BAND_HARD)
STAYS_ON = {"one-threshold-all": {"cap_at": 0.5, "hysteresis": 0.2}}
"""Once on, this cap stays while there is load."""
LADDER = {"polca": {"t1": 0.55, "t2": 0.65}}
"""Below the published thresholds, so that the load stays above them without reaching the brake."""


class Watched(ClosedLoop):
    """A closed loop that notes what was asked and what came into force, and when."""

    def __init__(self, site: Site, policy: str, source: ListSource | None = None, seed: int = 1) -> None:
        spec = RunSpec(site, policy, site.guarantee, 0.0, seed, check_every=1)
        super().__init__(spec, build_servers(site, 0.0), WaveSource(WAVES) if source is None else source)
        self.chance = np.random.default_rng(seed)
        self.asked: list[tuple[float, Command]] = []
        self.in_force: list[tuple[float, Vec]] = []
        self.told: dict[type, list[tuple[float, float]]] = {}
        """When samples and meter readings reached the controller, and how old they were then."""
        self.clocks_mhz: list[Vec] = []
        self.enforced_sum_w: list[float] = []

    def _second(self, now_s: float) -> None:
        super()._second(now_s)
        # By now the writes of the second before have reached the devices.
        config, limit_w = self.agents.config, np.minimum(self.actuators.gpu_limit_w, self.servers.field("tdp_w"))
        self.enforced_sum_w.append(float(config.enforced_w(limit_w).sum()))

    def _controller_step(self, event: ControllerEvent, now_s: float) -> None:
        if isinstance(event, Sampled):
            self.clocks_mhz.append(event.clock_mhz.copy())
        if isinstance(event, Sampled | Metered):
            self.told.setdefault(type(event), []).append((now_s, event.age_s))
        super()._controller_step(event, now_s)

    def _perform_controller(self, command: Command, now_s: float) -> None:
        self.asked.append((now_s, command))
        super()._perform_controller(command, now_s)

    def _apply_caps(self) -> None:
        super()._apply_caps()
        self.in_force.append((self.plant.now_s, self.actuators.clock_mhz()))

    def clock_at(self, now_s: float) -> Vec:
        """Clock caps in force at an instant [n]."""
        before = [clock for at_s, clock in self.in_force if at_s <= now_s]
        return before[-1] if before else self.servers.field("max_mhz")

    def times(self, kind: type) -> list[float]:
        """When commands of a kind were asked for."""
        return [now_s for now_s, command in self.asked if isinstance(command, kind)]


def ran(site: Site, policy: str, source: ListSource | None = None, seed: int = 1) -> Watched:
    loop = Watched(site, policy, source, seed)
    loop.run()
    return loop


# -- everything, with its invariants ----------------------------------------------------------------------------------


@pytest.mark.parametrize("budget_w", [ROOMY_W, TIGHT_W, 15_000.0])
@pytest.mark.parametrize(("actuation", "guarantee"), EVERYWHERE)
@pytest.mark.parametrize("policy", POLICIES)
def test_invariants_hold_and_books_add_up(
    policy: str, actuation: Actuation, guarantee: Guarantee, budget_w: float, seed: int
) -> None:
    loop = ran(site_of(budget_w, actuation, guarantee), policy, WaveSource(WAVES, seed), seed)
    assert loop.recorder.steps == loop.steps == sum(length_s for length_s, _ in WAVES)
    assert loop.recorder.energy_j == pytest.approx(loop.recorder.power_w.sum(), rel=1e-12)
    assert isinstance(loop.plant, Plant)
    stats = loop.plant.stats
    assert (stats.arrived == stats.completed + stats.rejected + loop.plant.in_flight).all()
    assert stats.arrived.sum() == sum(len(block) for block in WaveSource(WAVES, seed).blocks())
    rises = int((np.diff(loop.recorder.braked.astype(int), prepend=0) == 1).sum())
    # A brake engaged in the very last second shows in no second any more.
    assert loop.brakes - rises == (1 if loop.times(EngageBrake)[-1:] == [float(loop.steps)] else 0)


def nested(budgets_w: tuple[float, float, float], actuation: Actuation, guarantee: Guarantee) -> Site:
    """A row of two racks, each with a budget; the first rack has the high-priority servers."""
    row, first, second = budgets_w
    domains = (
        Domain("row", "row", None, row),
        Domain("first", "rack", "row", first),
        Domain("second", "rack", "row", second),
    )
    site = site_of(row, actuation, guarantee, domains=domains)
    return replace(site, servers=(replace(site.servers[0], domain="first"), replace(site.servers[1], domain="second")))


@pytest.mark.parametrize(("actuation", "guarantee"), EVERYWHERE)
@pytest.mark.parametrize("policy", ["no-cap", "polca", "fair-share"])
def test_invariants_hold_where_domains_are_nested(
    policy: str, actuation: Actuation, guarantee: Guarantee, seed: int
) -> None:
    site = nested((TIGHT_W, 12_000.0, 9_500.0), actuation, guarantee)
    loop = ran(site, policy, WaveSource(WAVES, seed), seed)
    assert loop.recorder.energy_j == pytest.approx(loop.recorder.power_w.sum(), rel=1e-12)
    if guarantee is Guarantee.HARD:
        assert loop.brakes == 0
        assert loop.recorder.power_w.max() < TIGHT_W


def test_the_brake_of_a_rack_slows_that_rack_alone() -> None:
    loop = ran(nested((1e6, 1e6, 10_000.0), OUT_OF_BAND, Guarantee.REACTIVE), "no-cap")
    assert {command.constraint for _, command in loop.asked if isinstance(command, EngageBrake)} == {2}
    clocks = np.array([clock for _, clock in loop.in_force])
    assert (clocks[:, :3] == 1_410.0).all()
    assert (clocks[:, 3:].min(axis=0) == 288.0).all()


# -- stages -----------------------------------------------------------------------------------------------------------


def test_polca_climbs_its_stages_under_load_and_leaves_them_after_it() -> None:
    loop = ran(site_of(ROOMY_W, policy=LADDER), "polca")
    assert loop.brakes == 0
    stages = [(clock[:3].tolist(), clock[3:].tolist()) for _, clock in loop.in_force]
    free, low_t2, high_t2 = [1_410.0] * 3, [1_110.0] * 3, [1_305.0] * 3
    assert stages.index((free, low_t2)) < stages.index((high_t2, low_t2))
    assert stages[-1] == (free, free)
    deeper_s = loop.in_force[stages.index((high_t2, low_t2))][0] - loop.in_force[stages.index((free, low_t2))][0]
    # The high class is capped only once the effect of capping the low one stands in the reading.
    assert deeper_s >= 44.0


@pytest.mark.parametrize("policy", POLICIES)
def test_no_policy_asks_for_anything_while_power_is_far_below_the_budget(policy: str) -> None:
    loop = ran(site_of(100_000.0), policy)
    assert loop.asked == []
    assert loop.recorder.mean_capped_s().tolist() == [0.0, 0.0]


def test_one_threshold_on_low_leaves_the_high_class_alone() -> None:
    loop = ran(site_of(ROOMY_W, policy={"one-threshold-low": {"cap_at": 0.6}}), "one-threshold-low")
    assert loop.recorder.mean_capped_s()[0] > 60.0
    assert loop.recorder.mean_capped_s()[1] == 0.0


# -- the path ---------------------------------------------------------------------------------------------------------


def test_out_of_band_caps_come_into_force_exactly_40_s_after_they_were_asked_for() -> None:
    loop = ran(site_of(ROOMY_W, policy=LADDER), "polca")
    wanted = loop.servers.field("max_mhz")
    expected, happened = [], []
    for now_s, command in loop.asked:
        assert isinstance(command, SetCaps)
        before = wanted.copy()
        wanted[command.rows] = command.cap_mhz
        if not np.array_equal(before, wanted) and now_s + 40.0 < loop.steps:
            expected.append((now_s + 40.0, wanted.tolist()))
    clock = loop.servers.field("max_mhz").tolist()
    for at_s, now in loop.in_force:
        if now.tolist() != clock:
            clock = now.tolist()
            happened.append((at_s, clock))
    assert len(expected) > 3
    assert happened == expected


def test_readings_reach_the_controller_as_late_as_the_path_says() -> None:
    quiet = WaveSource(((35.0, CALM_RPS),))
    meter = [(now_s, 2.0) for now_s in np.arange(4.0, 36.0, 2.0)]
    loop = Watched(site_of(ROOMY_W), "no-cap", quiet)
    loop.run()
    assert loop.told == {Metered: meter, Sampled: [(12.0, 2.0), (22.0, 2.0), (32.0, 2.0)]}
    loop = Watched(hard_site(ROOMY_W), "no-cap", quiet)
    loop.run()
    assert loop.told == {Metered: meter, Sampled: [(now_s, 0.0) for now_s in np.arange(1.0, 36.0)]}
    loop = Watched(site_of(ROOMY_W, replace(IN_BAND, sample_delay_s=3)), "no-cap", quiet)
    loop.run()
    assert loop.told[Sampled] == [(now_s, 3.0) for now_s in np.arange(4.0, 36.0)]


def test_only_a_busy_server_tells_its_clock() -> None:
    for site in (site_of(ROOMY_W), hard_site(ROOMY_W)):
        # The servers of high priority work, and only in the first third.
        loop = ran(site, "no-cap", ListSource(requests(np.arange(0.0, 20.0), 500, 50, 1), 60.0))
        told = np.isfinite(np.array(loop.clocks_mhz))
        assert told[: len(told) // 3, :3].any()
        assert not told[-len(told) // 3 :].any()
        assert not told[:, 3:].any()


def test_in_band_caps_come_into_force_50_ms_after_the_lease() -> None:
    loop = ran(site_of(ROOMY_W, IN_BAND, policy=STAYS_ON), "one-threshold-all")
    leases = [(now_s, c.lease) for now_s, c in loop.asked if isinstance(c, GrantLeases)]
    first_s = next(now_s for now_s, lease in leases if (lease.cap_mhz == 1_110.0).all())
    assert (loop.clock_at(np.nextafter(first_s + 0.05, 0.0)) == 1_410.0).all()
    assert (loop.clock_at(first_s + 0.05) == 1_110.0).all()


def test_a_lost_command_is_noticed_by_behaviour_and_finally_obeyed() -> None:
    actuation = replace(OUT_OF_BAND, failure_probability=0.05)
    busy = WaveSource(((700.0, BUSY_RPS),))
    failed = 0
    for seed in range(12):
        loop = ran(site_of(ROOMY_W, actuation, policy=STAYS_ON), "one-threshold-all", busy, seed)
        actuators = loop.actuators
        again = [command for _, command in loop.asked if isinstance(command, SetCaps) and command.reissued]
        assert actuators.sent == 6 + actuators.reissued
        # Nothing is sent again that was not lost.
        assert actuators.reissued == sum(command.cap_mhz.size for command in again) == actuators.failed
        assert actuators.cap_mhz.tolist() == loop.controller.cap_mhz.tolist() == [1_110.0] * 6
        failed += actuators.failed
    assert failed > 0


def test_nothing_is_sent_again_where_nothing_is_lost() -> None:
    for policy in POLICIES:
        for budget_w in (ROOMY_W, 23_000.0, TIGHT_W):
            assert ran(site_of(budget_w), policy).actuators.reissued == 0


@pytest.mark.parametrize("guarantee", list(Guarantee))
def test_a_write_that_an_agent_sees_fail_is_tried_again_the_next_second(guarantee: Guarantee) -> None:
    actuation = replace(IN_BAND, failure_probability=0.3)
    loop = ran(site_of(ROOMY_W, actuation, guarantee, policy=STAYS_ON), "one-threshold-all")
    assert loop.actuators.failed > 0
    # A write that fails again is tried again; one that a newer one has overtaken is not.
    assert 0 < loop.actuators.reissued <= loop.actuators.failed
    assert loop.agents.cap_mhz.tolist() == loop.actuators.cap_mhz.tolist()
    limit_w = loop.agents.config.gpu_limit_w(loop.agents.cap_w)
    assert loop.actuators.gpu_limit_w == pytest.approx(limit_w)
    if guarantee is Guarantee.HARD:
        assert loop.recorder.power_w[30:].max() < ROOMY_W


# -- the brake --------------------------------------------------------------------------------------------------------


def test_the_brake_is_engaged_above_the_budget_released_below_and_counted_once() -> None:
    loop = ran(site_of(TIGHT_W), "no-cap")
    engaged, released = loop.times(EngageBrake), loop.times(ReleaseBrake)
    assert loop.brakes == len(engaged) > 1
    assert len(engaged) - len(released) in (0, 1)
    turns = sorted([*engaged, *released])
    assert turns[::2] == engaged
    assert turns[1::2] == released
    # What the meter has delivered by an even second is the mean of the two that ended two seconds before.
    said_w = {2.0 * k + 4.0: watts for k, watts in enumerate(window_means(loop.recorder.power_w, 2).tolist())}
    over = [now_s for now_s, watts in said_w.items() if watts > TIGHT_W and now_s <= loop.steps]
    assert engaged[0] == over[0]
    assert all(said_w[now_s] > TIGHT_W for now_s in engaged)
    assert all(said_w[now_s - now_s % 2] < BrakeConfig().release_at * TIGHT_W for now_s in released)
    spans = list(zip(engaged, [*released, np.inf], strict=False))
    assert all(any(on_s <= now_s < off_s for on_s, off_s in spans) for now_s in over)


@pytest.mark.parametrize(("actuation", "guarantee"), [OOB_REACTIVE, IN_BAND_REACTIVE])
def test_the_brake_takes_hold_after_its_own_latency(actuation: Actuation, guarantee: Guarantee) -> None:
    loop = ran(site_of(TIGHT_W, actuation, guarantee), "no-cap")
    first_s = loop.times(EngageBrake)[0]
    obeyed_s = first_s + actuation.brake_latency_s
    assert (loop.clock_at(np.nextafter(obeyed_s, 0.0)) == 1_410.0).all()
    assert (loop.clock_at(obeyed_s) == 288.0).all()
    # The second that begins after that draws what the lowest clocks draw.
    assert loop.recorder.power_w[int(np.ceil(obeyed_s))] < 0.8 * TIGHT_W


# -- the hard guarantee -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("budget_w", [ROOMY_W, 18_000.0, 6 * FAILSAFE_W])
def test_under_the_hard_guarantee_nobody_may_draw_more_than_the_budget(policy: str, budget_w: float) -> None:
    loop = ran(hard_site(budget_w), policy)
    # In the first second the devices still have the limits they were found with.
    assert max(loop.enforced_sum_w[1:]) <= budget_w + 1e-6
    assert loop.recorder.power_w[1:].max() < budget_w
    assert (loop.brakes, loop.protections[0][1].trips) == (0, 0)


def test_the_budget_is_handed_out_in_whole_once_everybody_has_answered() -> None:
    loop = ran(hard_site(ROOMY_W), "no-cap")
    assert loop.enforced_sum_w[5] == pytest.approx(6 * FAILSAFE_W, rel=1e-3)
    assert loop.enforced_sum_w[-1] == pytest.approx(ROOMY_W, rel=1e-3)


class Silenced(Watched):
    """The controller is cut off at `SILENT_S`: nothing of it arrives any more."""

    SILENT_S = 200.0

    def _perform_controller(self, command: Command, now_s: float) -> None:
        if now_s <= self.SILENT_S:
            super()._perform_controller(command, now_s)


@pytest.mark.parametrize("guarantee", list(Guarantee))
def test_without_a_controller_every_server_falls_back_to_failsafe(guarantee: Guarantee) -> None:
    site = site_of(ROOMY_W, IN_BAND, guarantee)
    loop = Silenced(site, "polca", WaveSource(((400.0, BUSY_RPS),)))
    loop.run()
    assert (loop.agents.mode == Mode.FAILSAFE).all()
    assert loop.agents.cap_w.tolist() == [FAILSAFE_W] * 6
    end = int(loop.SILENT_S + site.lease_s)
    # Until its end a lease holds: nobody falls back early because messages are lost.
    assert loop.enforced_sum_w[end - 3] > 1.1 * 6 * FAILSAFE_W
    assert loop.recorder.power_w[:end].max() > 6 * FAILSAFE_W
    assert max(loop.enforced_sum_w[end + int(site.enforce_s) :]) == pytest.approx(6 * FAILSAFE_W, rel=1e-3)
    assert loop.recorder.power_w[end + int(site.enforce_s) :].max() <= 6 * FAILSAFE_W


class Lossy(Watched):
    """Half of the leases and a third of the samples are lost."""

    def _perform_controller(self, command: Command, now_s: float) -> None:
        if not isinstance(command, GrantLeases) or self.chance.random() < 0.5:
            super()._perform_controller(command, now_s)

    def _perform_agent(self, command: Command, now_s: float) -> None:
        if not isinstance(command, Publish) or self.chance.random() < 2.0 / 3.0:
            super()._perform_agent(command, now_s)


@pytest.mark.parametrize("policy", ["no-cap", "polca", "fair-share"])
@pytest.mark.parametrize("budget_w", [ROOMY_W, 18_000.0])
def test_lost_messages_cost_throughput_and_never_the_guarantee(policy: str, budget_w: float, seed: int) -> None:
    loop = Lossy(hard_site(budget_w), policy, WaveSource(WAVES, seed), seed)
    loop.run()
    assert max(loop.enforced_sum_w[1:]) <= budget_w + 1e-6
    assert loop.recorder.power_w[1:].max() < budget_w
