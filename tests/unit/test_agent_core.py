"""What a server does by itself."""

from dataclasses import replace

import numpy as np
import pytest

from policies.agent_core import SAMPLES_REMEMBERED
from policies.arrays import ALL
from policies.commands import Command, Publish, SetCaps
from policies.errors import InvariantViolated
from policies.events import Leased, LeaseVector, Measured, Restarted, Sampled, Ticked
from policies.invariants import check_agents
from policies.modes import Mode
from tests.cores import FAILSAFE_W, MAX_MHZ, MIN_MHZ, NAMEPLATE_W, Agents, agents, ints, lease_of, spread


def measure(core: Agents, now_s: float, drawn_w: float = 2_000.0) -> tuple[Sampled, list[Command]]:
    """The sample sent, and the other commands."""
    event = Measured(ALL, spread(drawn_w, core.n), spread(MAX_MHZ, core.n), core.cap_w.copy())
    commands = core.step(event, now_s)
    samples = [c.sample for c in commands if isinstance(c, Publish)]
    assert len(samples) == 1
    return samples[0], [c for c in commands if not isinstance(c, Publish)]


def lead(core: Agents, lease: LeaseVector, now_s: float) -> list[Command]:
    return core.step(Leased(lease), now_s)


def led(cap_w: float = 9_000.0, n: int = 1) -> Agents:
    """Agents that had seen epoch 1 before and hold a lease of it until 10 s: they have sent sample 1 at 0 s."""
    core = agents(n)
    core.epoch[:] = 1
    measure(core, 0.0)
    lead(core, lease_of(core, cap_w, seq=1), 0.5)
    return core


def test_it_starts_at_failsafe_and_says_so_to_the_devices() -> None:
    core = agents(2)
    (command,) = core.set_initial()
    assert isinstance(command, SetCaps)
    assert command.cap_w.tolist() == [FAILSAFE_W] * 2
    assert core.next_deadline_s() is None


def test_a_cap_becomes_a_limit_of_every_gpu_that_keeps_the_server_inside_it() -> None:
    config = agents(1).config
    limit_w = config.gpu_limit_w(spread(9_000.0, 1))
    assert limit_w[0] == pytest.approx((9_000.0 - 1_000.0) / (8 * 1.05))
    assert config.enforced_w(limit_w)[0] == pytest.approx(9_000.0)
    assert config.gpu_limit_w(spread(0.0, 1))[0] == 100.0, "the lowest limit the GPU obeys"


def test_a_lease_sets_the_cap_until_it_ends() -> None:
    core = led()
    assert core.cap_w[0] == 9_000.0
    assert core.next_deadline_s() == 10.0
    assert core.step(Ticked(), 9.99) == []
    (command,) = core.step(Ticked(), 10.0)
    assert isinstance(command, SetCaps)
    assert command.because == "lease ended"
    assert core.cap_w[0] == FAILSAFE_W
    assert core.next_deadline_s() is None


def test_a_renewal_without_a_change_writes_nothing() -> None:
    core = led()
    measure(core, 1.0)
    assert lead(core, lease_of(core, 9_000.0, seq=2, sample_seq=2), 1.1) == []
    assert core.next_deadline_s() == 11.0


def test_the_end_of_a_lease_never_raises() -> None:
    core = led()
    measure(core, 1.0)
    lead(core, replace(lease_of(core, 1_500.0, seq=2, sample_seq=2), braking=np.array([True])), 1.1)
    core.step(Ticked(), 20.0)
    assert core.cap_w[0] == 1_500.0


def test_a_lease_counts_from_the_sample_it_answers_however_late_it_is() -> None:
    core = agents(1)
    measure(core, 0.0)
    lead(core, lease_of(core, 9_000.0, seq=1), 9.5)
    assert core.lease_end_s[0] == 10.0
    core = agents(1)
    measure(core, 0.0)
    assert lead(core, lease_of(core, 9_000.0, seq=1), 10.0) == []
    assert core.refused == 1


REFUSED = {
    "another incarnation": {"incarnation": ints(7, 1)},
    "a sequence not above the last": {"seq": 1},
    "a lower epoch": {"epoch": 0, "seq": 99},
    "a sample never sent": {"sample_seq": ints(9, 1)},
    "no sample at all": {"sample_seq": ints(0, 1)},
    "a cap that is not a number": {"cap_w": spread(np.nan, 1)},
    "a negative cap": {"cap_w": spread(-1.0, 1)},
    "a clock that is not a number": {"cap_mhz": spread(np.nan, 1)},
    "a lease without end": {"lease_s": np.inf},
    "an unknown end": {"lease_s": np.nan},
    "an end before it began": {"lease_s": -1.0},
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_lease_is_refused_that_names(why: str) -> None:
    core = led()
    measure(core, 1.0)
    before = core.cap_w.copy()
    lease = replace(lease_of(core, 5_000.0, seq=2, sample_seq=2), **REFUSED[why])  # type: ignore[arg-type]
    assert lead(core, lease, 1.1) == []
    assert core.refused == 1
    assert core.cap_w.tolist() == before.tolist()
    assert core.lease_end_s[0] == 10.0


def test_a_lease_for_nobody_is_nothing() -> None:
    core = led()
    none = lease_of(agents(0), 5_000.0, seq=2)
    assert lead(core, replace(none, rows=np.array([], dtype=np.intp)), 1.0) == []


def test_one_refused_row_does_not_cost_the_others_their_lease() -> None:
    core = led(n=3)
    measure(core, 1.0)
    lease = lease_of(core, 5_000.0, seq=2, sample_seq=2)
    lease.incarnation[1] = 7
    lead(core, lease, 1.1)
    assert core.cap_w.tolist() == [5_000.0, 9_000.0, 5_000.0]


def test_a_sample_longer_ago_than_is_remembered_is_not_answered() -> None:
    core = agents(1)
    for k in range(SAMPLES_REMEMBERED + 1):
        measure(core, 0.01 * k)
    lead(core, lease_of(core, 9_000.0, seq=1, sample_seq=1), 1.0)
    assert core.refused == 1
    lead(core, lease_of(core, 9_000.0, seq=1, sample_seq=2), 1.0)
    assert core.mode[0] == Mode.LEASED


def test_caps_end_at_the_nameplate_and_clocks_in_the_device_range() -> None:
    core = led()
    measure(core, 1.0)
    lead(core, lease_of(core, np.inf, seq=2, sample_seq=2, cap_mhz=10.0), 1.1)
    assert core.cap_w[0] == NAMEPLATE_W
    assert core.cap_mhz[0] == MIN_MHZ


def test_a_restart_keeps_the_lower_of_failsafe_and_the_cap_on_disk() -> None:
    core = led(n=3)
    kept_w = np.array([9_000.0, 1_500.0, np.nan])
    core.step(Restarted(ALL, ints(5, 3), kept_w, ints(1, 3)), 3.0)
    assert core.cap_w.tolist() == [FAILSAFE_W, 1_500.0, FAILSAFE_W]
    assert core.next_deadline_s() is None or core.step(Ticked(), 99.0) == []


def test_a_restart_remembers_whom_it_obeyed() -> None:
    core = led()
    core.step(Restarted(ALL, ints(5, 1), spread(np.nan, 1), ints(4, 1)), 3.0)
    measure(core, 4.0)
    lead(core, replace(lease_of(core, 9_000.0, seq=99), epoch=3), 4.1)
    assert core.refused == 1
    lead(core, replace(lease_of(core, 9_000.0, seq=1), epoch=4), 4.1)
    assert core.cap_w[0] == 9_000.0


def test_a_sample_says_what_is_applied() -> None:
    core = led()
    sample, _ = measure(core, 1.0, drawn_w=3_000.0)
    assert (sample.seq[0], sample.epoch[0], sample.lease_seq[0]) == (2, 1, 1)
    assert sample.incarnation[0] == core.incarnation[0]
    assert (sample.drawn_w[0], sample.enforced_w[0]) == (3_000.0, 9_000.0)


class TestTakingOver:
    def newer(self, core: Agents, cap_w: float, *, epoch: int = 2, seq: int = 1, mhz: float = np.inf) -> LeaseVector:
        lease = lease_of(core, cap_w, seq=seq, sample_seq=int(core.sample_seq[0]), cap_mhz=mhz)
        return replace(lease, epoch=epoch)

    def test_an_unexpired_lease_of_an_older_epoch_caps_the_new_one(self) -> None:
        core = led(5_000.0)
        measure(core, 1.0)
        assert lead(core, self.newer(core, 9_000.0), 1.1) == []
        assert core.cap_w[0] == 5_000.0
        measure(core, 9.0)
        lead(core, self.newer(core, 9_000.0, seq=2), 9.1)
        core.step(Ticked(), 11.0)
        assert core.cap_w[0] == 5_000.0, "a lease of 2 might still answer a sample from before"
        (command,) = core.step(Ticked(), 11.2)
        assert isinstance(command, SetCaps)
        assert command.because == "older epoch ended"
        assert core.cap_w[0] == 9_000.0

    def test_its_clock_binds_too(self) -> None:
        core = agents(1)
        core.epoch[:] = 1
        measure(core, 0.0)
        lead(core, lease_of(core, 5_000.0, seq=1, cap_mhz=900.0), 0.1)
        measure(core, 5.0)
        lead(core, self.newer(core, 5_000.0), 5.1)
        assert core.cap_mhz[0] == 900.0
        measure(core, 14.0)
        lead(core, self.newer(core, 5_000.0, seq=2), 14.1)
        core.step(Ticked(), 15.2)
        assert core.cap_mhz[0] == MAX_MHZ

    def test_a_lowering_by_the_new_one_is_immediate(self) -> None:
        core = led(5_000.0)
        lead(core, self.newer(core, 4_500.0), 1.1)
        assert core.cap_w[0] == 4_500.0

    def test_nothing_rises_above_failsafe_by_a_first_lease(self) -> None:
        """Even without an older lease: the report that is answered may be from before its end."""
        core = led()
        measure(core, 9.0)
        core.step(Ticked(), 10.0)
        lead(core, self.newer(core, 9_000.0), 10.1)
        assert core.cap_w[0] == FAILSAFE_W
        assert core.mode[0] == Mode.LEASED

    def test_a_third_epoch_is_bound_by_what_bound_the_second(self) -> None:
        core = led(5_000.0)
        measure(core, 1.0)
        lead(core, self.newer(core, 9_000.0), 1.0)
        lead(core, replace(self.newer(core, 9_000.0, epoch=3), lease_s=2.0), 1.5)
        measure(core, 9.0)
        lead(core, self.newer(core, 9_000.0, epoch=3, seq=2), 9.0)
        core.step(Ticked(), 10.9)
        assert core.cap_w[0] == 5_000.0, "a shorter lease of the third does not end the first's early"
        core.step(Ticked(), 11.1)
        assert core.cap_w[0] == 9_000.0

    def test_a_reflex_without_a_lease_is_no_older_lease(self) -> None:
        core = agents(1)
        for k in range(4):
            measure(core, float(k), drawn_w=6_000.0)
        assert core.mode[0] == Mode.REFLEX
        lead(core, lease_of(core, 9_000.0, seq=1, sample_seq=4), 3.1)
        assert core.mode[0] == Mode.REFLEX
        for k in range(4, 20):
            measure(core, float(k))
            lead(core, lease_of(core, 9_000.0, seq=k, sample_seq=k + 1), k + 0.1)
        assert core.cap_w[0] == 9_000.0

    def test_a_restart_forgets_the_older_lease(self) -> None:
        core = led(5_000.0)
        lead(core, self.newer(core, 9_000.0), 1.1)
        core.step(Restarted(ALL, ints(5, 1), spread(np.nan, 1), ints(2, 1)), 2.0)
        assert core.next_deadline_s() is None or core.step(Ticked(), 50.0) == []
        measure(core, 51.0)
        lead(core, self.newer(core, 9_000.0, seq=2), 51.1)
        assert core.cap_w[0] == 9_000.0


class TestReflex:
    def test_it_needs_an_overdraw_that_lasts(self) -> None:
        core = led(5_000.0)
        measure(core, 1.0, drawn_w=6_000.0)
        measure(core, 2.9, drawn_w=6_000.0)
        assert core.mode[0] == Mode.LEASED
        measure(core, 2.95, drawn_w=4_000.0)
        measure(core, 3.0, drawn_w=6_000.0)
        measure(core, 4.9, drawn_w=6_000.0)
        assert core.mode[0] == Mode.LEASED
        _, (command,) = measure(core, 5.0, drawn_w=6_000.0)
        assert isinstance(command, SetCaps)
        assert (command.because, command.cap_mhz[0]) == ("overdraw", MIN_MHZ)

    def overdrawn(self) -> Agents:
        core = led(5_000.0)
        measure(core, 1.0, drawn_w=6_000.0)
        measure(core, 3.0, drawn_w=6_000.0)
        assert core.mode[0] == Mode.REFLEX
        return core

    def test_a_watt_is_no_overdraw(self) -> None:
        core = led(5_000.0)
        for k in range(1, 9):
            measure(core, float(k), drawn_w=5_000.9)
        assert core.mode[0] == Mode.LEASED

    def test_a_lease_does_not_end_it(self) -> None:
        core = self.overdrawn()
        lead(core, lease_of(core, 5_000.0, seq=2, sample_seq=3), 3.1)
        assert core.mode[0] == Mode.REFLEX
        assert core.cap_mhz[0] == MIN_MHZ

    def test_obedience_ends_it_and_the_next_lease_lifts_the_clock(self) -> None:
        core = self.overdrawn()
        measure(core, 4.0, drawn_w=4_000.0)
        assert core.mode[0] == Mode.LEASED
        assert core.cap_mhz[0] == MIN_MHZ
        lead(core, lease_of(core, 5_000.0, seq=2, sample_seq=4), 4.1)
        assert core.cap_mhz[0] == MAX_MHZ

    def test_a_missing_reading_does_not_end_it(self) -> None:
        core = self.overdrawn()
        measure(core, 4.0, drawn_w=np.nan)
        assert core.mode[0] == Mode.REFLEX

    def test_a_missing_reading_does_not_forget_that_it_began(self) -> None:
        core = led(5_000.0)
        measure(core, 1.0, drawn_w=6_000.0)
        measure(core, 2.0, drawn_w=np.nan)
        measure(core, 3.0, drawn_w=6_000.0)
        assert core.mode[0] == Mode.REFLEX

    def test_the_lease_may_end_during_it_and_the_clock_stays_low(self) -> None:
        core = self.overdrawn()
        core.step(Ticked(), 10.0)
        assert core.mode[0] == Mode.FAILSAFE
        assert core.cap_mhz[0] == MIN_MHZ
        measure(core, 10.1, drawn_w=6_000.0)
        assert core.mode[0] == Mode.REFLEX
        measure(core, 11.0, drawn_w=1_000.0)
        assert core.mode[0] == Mode.FAILSAFE


BROKEN = {
    "I3: rows .0. hold more than failsafe": lambda core: core.cap_w.fill(NAMEPLATE_W),
    "a cap is not a number": lambda core: core.cap_w.fill(np.nan),
    "above the nameplate": lambda core: core.cap_w.fill(NAMEPLATE_W + 1.0),
    "outside the device range": lambda core: core.cap_mhz.fill(1.0),
}


@pytest.mark.parametrize("story", BROKEN)
def test_a_broken_invariant_tells_its_story(story: str) -> None:
    core = agents(1)
    BROKEN[story](core)
    with pytest.raises(InvariantViolated, match=story):
        check_agents(core, 0.0)


def test_an_overdue_lease_is_a_broken_invariant() -> None:
    core = led()
    check_agents(core, 10.0)
    with pytest.raises(InvariantViolated, match="a lease that has ended"):
        check_agents(core, 10.1)


def test_exceeding_an_older_epoch_is_a_broken_invariant() -> None:
    core = led(5_000.0)
    lead(core, replace(lease_of(core, 9_000.0, seq=1), epoch=2), 1.1)
    core.cap_w[0] = 9_000.0
    with pytest.raises(InvariantViolated, match="I7"):
        check_agents(core, 1.2)
