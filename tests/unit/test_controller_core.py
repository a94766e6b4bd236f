"""What the fleet does, a tick at a time."""

from dataclasses import replace

import numpy as np
import pytest

from policies.arrays import Vec
from policies.commands import Command, EngageBrake, GrantLeases, Refuse, ReleaseBrake, SetCaps
from policies.controller_core import Promise
from policies.errors import ConfigError, InvariantViolated
from policies.events import BudgetSet, Leased, LeaseVector, Metered, Sampled, Ticked
from policies.invariants import ControllerWatch
from tests.cores import FAILSAFE_W, HARD, MAX_MHZ, NAMEPLATE_W, OUT_OF_BAND, Desk, desk, ints, sample_of, spread


def leases(commands: list[Command]) -> LeaseVector:
    """The one lease vector among the commands."""
    (lease,) = [c.lease for c in commands if isinstance(c, GrantLeases)]
    return lease


def kinds(commands: list[Command]) -> list[type]:
    return [type(c) for c in commands]


def second(at: Desk, now_s: float, drawn_w: float = 2_000.0) -> list[Command]:
    """One second in which nothing is lost: sample, tick, lease."""
    at.agents.step(Ticked(), now_s)
    event = sample_of(at.agents, drawn_w)
    at.agents.sent_s[:, event.seq[0] % at.agents.sent_s.shape[1]] = now_s
    at.controller.step(event, now_s)
    commands = at.controller.step(Ticked(), now_s)
    for command in commands:
        if isinstance(command, GrantLeases):
            at.agents.step(Leased(command.lease), now_s)
    return commands


def led(n: int = 2, seconds: int = 30) -> Desk:
    """A fleet that has been led for a while; its budget is 8,000 W a server where two do not need all of it."""
    at = desk(n, HARD if n <= 3 else replace(HARD, budget_w=np.array([8_000.0 * n])))
    for k in range(1, seconds + 1):
        second(at, float(k))
    return at


def test_nobody_who_has_not_been_heard_is_sent_a_lease() -> None:
    at = desk(3)
    assert at.controller.step(Ticked(), 0.0) == []
    at.controller.step(sample_of(at.agents, 2_000.0, rows=np.array([1])), 0.5)
    lease = leases(at.controller.step(Ticked(), 1.0))
    assert np.asarray(lease.rows).tolist() == [1]
    assert lease.cap_w.tolist() == [FAILSAFE_W]


def test_a_lease_answers_the_latest_sample() -> None:
    at = desk(2)
    at.controller.step(sample_of(at.agents, 2_000.0), 0.0)
    latest = sample_of(at.agents, 2_000.0)
    at.controller.step(latest, 1.0)
    late = replace(latest, seq=latest.seq - 1)
    at.controller.step(late, 1.5)
    lease = leases(at.controller.step(Ticked(), 2.0))
    assert lease.sample_seq.tolist() == latest.seq.tolist()
    assert lease.incarnation.tolist() == at.agents.incarnation.tolist()


def test_a_silent_server_is_answered_its_old_sample_so_its_lease_ends_on_time() -> None:
    at = led(1, 20)
    for k in range(21, 40):
        lease = leases(at.controller.step(Ticked(), float(k)))
        at.agents.step(Leased(lease), float(k))
    assert at.agents.cap_w[0] == FAILSAFE_W


def test_lease_sequences_rise() -> None:
    at = led(1, 3)
    seqs = [leases(second(at, float(k))).seq for k in range(4, 9)]
    assert seqs == sorted(set(seqs))


def test_nothing_is_raised_while_taking_over() -> None:
    at = desk(1)
    for k in range(1, 12):
        second(at, float(k))
        assert at.controller.ledger.granted_w[0] == FAILSAFE_W
    second(at, 12.0)
    assert at.controller.ledger.granted_w[0] > FAILSAFE_W


def test_a_server_that_falls_silent_is_not_raised() -> None:
    at = led(2, 14)
    before_w = at.controller.ledger.granted_w.tolist()
    for k in range(20, 30):
        at.controller.step(sample_of(at.agents, 2_000.0, rows=np.array([1])), float(k))
        at.controller.step(Ticked(), float(k))
    after_w = at.controller.ledger.granted_w.tolist()
    assert after_w[0] == before_w[0]
    assert after_w[1] > before_w[1]


def test_raising_takes_several_seconds() -> None:
    at = led(2, 11)
    grants = []
    for k in range(12, 30):
        second(at, float(k))
        grants.append(float(at.controller.ledger.granted_w.sum()))
    steps = np.diff([2 * FAILSAFE_W, *grants])
    assert steps.max() == pytest.approx(0.05 * 16_000.0)
    assert grants[-1] == pytest.approx(16_000.0)


def test_raising_to_a_nameplate_that_fits_is_no_faster() -> None:
    """Every server may have all it wants; they must not rise at once all the same."""
    at = desk(2, replace(HARD, budget_w=np.array([30_000.0])))
    steps = []
    for k in range(1, 40):
        before_w = at.agents.cap_w.sum()
        second(at, float(k))
        steps.append(at.agents.cap_w.sum() - before_w)
    assert max(steps) == pytest.approx(1_500.0)
    assert at.agents.cap_w.tolist() == [NAMEPLATE_W] * 2


def test_clocks_rise_a_few_servers_at_a_time_and_fall_at_once() -> None:
    at = led(40, 20)
    at.wish.clocks(900.0)
    second(at, 21.0)
    assert (at.agents.cap_mhz == 900.0).all()
    at.wish.clocks(np.inf)
    second(at, 22.0)
    assert (at.agents.cap_mhz > 900.0).sum() == 2
    for k in range(23, 42):
        second(at, float(k))
    assert (at.agents.cap_mhz == MAX_MHZ).all()


@pytest.mark.parametrize("bad", [np.nan, -np.inf, -5.0, 0.0])
def test_nonsense_of_a_policy_stays_inside_the_range(bad: float) -> None:
    at = led()
    before_w = at.controller.ledger.granted_w.copy()
    at.wish.caps(bad)
    at.wish.clocks(bad)
    second(at, 31.0)
    granted_w = at.controller.ledger.granted_w
    assert granted_w.tolist() == (before_w.tolist() if np.isnan(bad) else [FAILSAFE_W] * 2)


class TestEstimates:
    def view(self, at: Desk, now_s: float) -> Vec:
        at.controller.step(Ticked(), now_s)
        assert at.wish.seen is not None
        return at.wish.seen.drawn_w

    def test_a_silent_server_draws_what_it_may(self) -> None:
        at = led()
        assert self.view(at, 35.0).tolist() == [2_000.0] * 2
        assert self.view(at, 35.1).tolist() == [8_000.0] * 2

    def test_a_late_sample_is_as_old_as_it_says(self) -> None:
        at = led()
        late = replace(sample_of(at.agents, 100.0), age_s=60.0)
        at.controller.step(late, 90.0)
        assert self.view(at, 90.0).tolist() == [8_000.0] * 2
        at.controller.step(replace(sample_of(at.agents, 100.0), age_s=4.0), 90.0)
        assert self.view(at, 90.0).tolist() == [100.0] * 2

    @pytest.mark.parametrize("bad_w", [np.nan, -1.0, 3.0 * NAMEPLATE_W, np.inf])
    def test_an_implausible_reading_is_none(self, bad_w: float) -> None:
        at = led()
        at.controller.step(sample_of(at.agents, [bad_w, 3_000.0]), 31.0)
        assert self.view(at, 31.0).tolist() == [2_000.0, 3_000.0]
        at.controller.step(sample_of(at.agents, [bad_w, 3_000.0]), 36.0)
        assert self.view(at, 36.0).tolist() == [8_000.0, 3_000.0]

    def test_an_overtaken_sample_does_not_bring_an_old_reading_back(self) -> None:
        at = led()
        old = sample_of(at.agents, 1.0)
        at.controller.step(sample_of(at.agents, 5_000.0), 31.0)
        at.controller.step(old, 31.0)
        assert self.view(at, 31.0).tolist() == [5_000.0] * 2

    def test_the_meter_counts_what_nobody_samples(self) -> None:
        at = led()
        at.controller.step(Metered(0, 5_500.0, 2.0), 30.0)
        at.controller.step(Ticked(), 30.5)
        assert at.wish.seen is not None
        assert at.wish.seen.constraint_w[0] == pytest.approx(5_500.0)

    def test_a_meter_reading_that_was_overtaken_or_is_absurd_is_none(self) -> None:
        at = led()
        at.controller.step(Metered(0, 9_000.0, 2.0), 30.0)
        for drawn_w, age_s in ((5_000.0, 8.0), (-1.0, 0.0), (np.nan, 0.0), (np.inf, 0.0)):
            at.controller.step(Metered(0, drawn_w, age_s), 31.0)
        assert at.controller.readings.meter_w[0] == 9_000.0


class TestBrake:
    def test_a_measured_excess_that_lasts_brakes_every_server(self) -> None:
        at = led()
        assert kinds(second(at, 31.0, drawn_w=8_500.0)) == [GrantLeases]
        assert kinds(second(at, 32.0, drawn_w=8_500.0)) == [GrantLeases]
        commands = second(at, 33.0, drawn_w=8_500.0)
        assert kinds(commands) == [EngageBrake, GrantLeases]
        assert leases(commands).braking.all()
        assert (at.agents.cap_mhz == 400.0).all()

    def test_charges_above_the_budget_are_no_excess(self) -> None:
        at = desk(3)
        for k in range(20):
            assert at.controller.step(Ticked(), float(k)) == []

    def test_a_silent_fleet_is_no_excess_and_no_relief(self) -> None:
        at = led()
        for k in range(31, 35):
            second(at, float(k), drawn_w=8_500.0)
        assert at.controller.brake.any_engaged
        for k in range(35, 80):
            assert kinds(at.controller.step(Ticked(), float(k))) == [GrantLeases]
        assert at.controller.brake.any_engaged

    def test_a_metered_excess_counts_where_samples_are_silent(self) -> None:
        at = led()
        for k in range(40, 44):
            at.controller.step(Metered(0, 17_000.0, 2.0), float(k))
            commands = at.controller.step(Ticked(), float(k))
            if any(isinstance(c, EngageBrake) for c in commands):
                return
        pytest.fail("the meter saw it for three seconds")

    def test_clocks_leave_the_brake_one_after_another(self) -> None:
        at = led(3)
        for k in range(31, 35):
            second(at, float(k), drawn_w=5_500.0)
        released: list[int] = []
        for k in range(35, 45):
            commands = second(at, float(k))
            if any(isinstance(c, ReleaseBrake) for c in commands) or released:
                released.append(int((at.agents.cap_mhz == MAX_MHZ).sum()))
        assert released[:3] == [1, 2, 3]


class TestBudgets:
    def test_a_lower_one_lowers_first_and_raises_nothing_until_it_fits(self) -> None:
        at = led()
        assert at.controller.step(BudgetSet(0, 10_000.0), 30.5) == []
        charges = []
        for k in range(31, 45):
            second(at, float(k))
            charges.append(float(at.controller.charge_w().sum()))
        assert charges == sorted(charges, reverse=True)
        assert charges[-1] == pytest.approx(10_000.0)

    @pytest.mark.parametrize("budget_w", [7_999.0, 0.0, -1.0, np.nan, np.inf])
    def test_one_that_failsafe_cannot_keep_is_refused_and_so_is_nonsense(self, budget_w: float) -> None:
        at = led()
        (command,) = at.controller.step(BudgetSet(0, budget_w), 30.5)
        assert isinstance(command, Refuse)
        assert at.controller.budget_w[0] == 16_000.0

    def test_a_higher_one_is_used(self) -> None:
        at = led()
        at.controller.step(BudgetSet(0, 18_000.0), 30.5)
        for k in range(31, 45):
            second(at, float(k))
        assert at.agents.cap_w.sum() == pytest.approx(18_000.0)

    def test_the_config_is_not_changed(self) -> None:
        at = led()
        at.controller.step(BudgetSet(0, 10_000.0), 30.5)
        assert at.controller.config.budget_w[0] == 16_000.0


class TestPromises:
    def test_hard_needs_leases(self) -> None:
        with pytest.raises(ConfigError, match="leases"):
            desk(1, replace(HARD, leases=False))

    def test_reactive_is_refused_live_unless_asked_for(self) -> None:
        with pytest.raises(ConfigError, match="comparison"):
            desk(1, replace(OUT_OF_BAND, live=True))
        desk(1, replace(OUT_OF_BAND, live=True, allow_reactive_live=True))

    def test_reactive_conserves_nothing(self) -> None:
        at = desk(2, replace(HARD, promise=Promise.REACTIVE))
        at.controller.step(sample_of(at.agents, 2_000.0), 0.0)
        assert leases(at.controller.step(Ticked(), 1.0)).cap_w.tolist() == [NAMEPLATE_W] * 2


class TestOutOfBand:
    def sample(self, clock_mhz: float, seq: int) -> Sampled:
        none = ints(0, 1)
        return Sampled(
            slice(None), none, none + seq, 0.0, spread(5_000.0, 1), spread(clock_mhz, 1), spread(np.nan, 1), none, none
        )

    def test_only_changes_are_sent(self) -> None:
        at = desk(1, OUT_OF_BAND, cap_latency_s=40.0)
        assert at.controller.step(Ticked(), 0.0) == []
        at.wish.clocks(1_200.0)
        (command,) = at.controller.step(Ticked(), 1.0)
        assert isinstance(command, SetCaps)
        assert (command.cap_mhz[0], command.cap_w[0], command.reissued) == (1_200.0, np.inf, False)
        assert at.controller.step(Ticked(), 2.0) == []

    def test_a_command_without_effect_is_sent_again(self) -> None:
        at = desk(1, OUT_OF_BAND, cap_latency_s=40.0)
        at.wish.clocks(1_200.0)
        at.controller.step(Ticked(), 0.0)
        at.controller.step(self.sample(1_980.0, 1), 45.0)
        (command,) = at.controller.step(Ticked(), 45.0)
        assert isinstance(command, SetCaps)
        assert command.reissued
        at.controller.step(self.sample(1_980.0, 2), 60.0)
        assert at.controller.step(Ticked(), 60.0) == [], "the second command has not had its time"

    def test_a_dead_sensor_does_not_ask_for_caps_again_and_again(self) -> None:
        at = desk(1, OUT_OF_BAND, cap_latency_s=40.0)
        at.controller.step(self.sample(1_980.0, 1), 0.0)
        at.wish.clocks(1_200.0)
        at.controller.step(Ticked(), 1.0)
        assert [c for k in range(2, 300) for c in at.controller.step(Ticked(), float(k))] == []

    def test_clocks_read_during_a_brake_are_no_disobedience_after_it(self) -> None:
        at = desk(1, OUT_OF_BAND, cap_latency_s=40.0)
        at.wish.clocks(1_800.0)
        at.controller.step(Ticked(), 0.0)
        at.wish.clocks(np.inf)
        at.controller.step(Ticked(), 1.0)
        at.controller.step(Metered(0, 17_000.0, 2.0), 100.0)
        at.controller.step(Ticked(), 100.0)
        at.controller.step(self.sample(400.0, 1), 106.0)
        at.controller.step(Metered(0, 5_000.0, 2.0), 108.0)
        assert kinds(at.controller.step(Ticked(), 108.0)) == [ReleaseBrake]
        assert at.controller.step(Ticked(), 118.0) == []

    def test_the_meter_decides_and_the_last_reading_stands(self) -> None:
        at = desk(1, OUT_OF_BAND)
        at.controller.step(Metered(0, 17_000.0, 2.0), 0.0)
        assert kinds(at.controller.step(Ticked(), 0.0)) == [EngageBrake]
        assert at.controller.step(Ticked(), 500.0) == []
        at.controller.step(Metered(0, 5_000.0, 2.0), 501.0)
        assert kinds(at.controller.step(Ticked(), 501.0)) == [ReleaseBrake]


def test_the_same_events_give_the_same_commands() -> None:
    def grants() -> list[list[float]]:
        at = desk(3)
        return [leases(second(at, float(k))).cap_w.tolist() for k in range(1, 30)]

    assert grants() == grants()


def test_a_charge_that_rises_above_the_budget_is_a_broken_invariant() -> None:
    at = led()
    watch = ControllerWatch(at.controller)
    watch.check()
    at.controller.ledger.possible_w = spread(NAMEPLATE_W, 2)
    with pytest.raises(InvariantViolated, match="I1"):
        watch.check()


def test_a_grant_outside_the_books_is_a_broken_invariant() -> None:
    at = led()
    at.controller.ledger.granted_w = spread(9_000.0, 2)
    with pytest.raises(InvariantViolated, match="not in the books"):
        ControllerWatch(at.controller).check()
