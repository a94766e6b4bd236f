"""What the fleet does: age samples, roll power up, ask the policy, pass its answer through the guard, renew leases."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from policies.arrays import Ints, Vec, frozen
from policies.brake import Brake, BrakeConfig
from policies.commands import Command, EngageBrake, GrantLeases, Refuse, ReleaseBrake, SetCaps
from policies.errors import ConfigError
from policies.events import BudgetSet, ControllerEvent, LeaseVector, Metered, Sampled, Ticked
from policies.guard import Books, clipped_mhz, clipped_w, conserved, fitted, unclocked
from policies.ledger import Ledger
from policies.models.fleet import FleetModel
from policies.policy import Fleet, FleetView, Policy
from policies.readings import Readings
from policies.topology import Constraints
from policies.verification import Verification


class Promise(StrEnum):
    """What is promised of a constraint."""

    HARD = "hard"
    """The sum of charges never exceeds the budget."""
    REACTIVE = "reactive"
    """Nothing is conserved; caps after the fact, a brake above 100 %: what published systems do, for comparison."""


@dataclass(frozen=True, slots=True, eq=False)
class ControllerConfig:
    """How a controller runs; facts of the servers are in `Fleet`."""

    promise: Promise
    leases: bool
    """Whether the path carries leases (in-band) or bare cap commands (out-of-band)."""
    budget_w: Vec
    """Of each constraint [m]."""
    brake: BrakeConfig
    epoch: int = 1
    tick_s: float = 1.0
    lease_s: float = 10.0
    enforce_s: float = 1.0
    """From the end of a lease to every GPU at failsafe."""
    settle_s: float = 2.0
    """A lowering is not believed sooner, whatever the reading says."""
    stale_s: float = 5.0
    raise_share_per_s: float = 0.05
    """Of a budget's watts, and of the fleet's servers, that un-capping may release each second (I5)."""
    verify_s: float = 10.0
    """How often behaviour is compared with the caps sent over a path without leases."""
    live: bool = False
    allow_reactive_live: bool = False


class ControllerCore:
    """A fleet's controller. Same inputs, same outputs: `now_s` is the only clock."""

    def __init__(
        self,
        config: ControllerConfig,
        fleet: Fleet,
        constraints: Constraints,
        policy: Policy,
        model: FleetModel,
        order: Vec,
    ) -> None:
        """Start knowing nothing of any server: charged their nameplate, granted nothing.

        Args:
            config: promise, path and times.
            fleet: facts of the servers [n].
            constraints: budgets over them.
            policy: proposes.
            model: the controller's beliefs about power.
            order: a seeded random number for each server; un-capping goes in this order [n].
        """
        if config.promise is Promise.REACTIVE and config.live and not config.allow_reactive_live:
            raise ConfigError(
                "guarantee 'reactive' conserves nothing and is for comparison in replay: "
                "set guarantee = 'hard', or allow_reactive_live = true to run it on real breakers all the same"
            )
        if config.promise is Promise.HARD and not config.leases:
            raise ConfigError("guarantee 'hard' needs a path that carries leases: out-of-band commands cannot expire")
        for values in (fleet.nameplate_w, fleet.failsafe_w, fleet.max_mhz, fleet.min_mhz, fleet.priority):
            frozen(values)
        self.config, self.fleet, self.constraints, self.policy, self.model = config, fleet, constraints, policy, model
        self.order = order
        self.budget_w = config.budget_w.copy()
        self.readings = Readings(fleet, constraints, config.stale_s, trust_samples=config.leases)
        self.ledger = Ledger(fleet, config.settle_s)
        self.brake = Brake(constraints.count, config.brake)
        self.verification = Verification(fleet, config.verify_s)
        self.cap_w = fleet.nameplate_w.copy()
        self.cap_mhz = fleet.max_mhz.copy()
        """What is now asked of each server [n], brake aside."""
        self.lease_seq = 0
        self.began_s: float | None = None
        self.memory: object | None = None
        self.because = "start"
        self._plan_key: tuple[object, ...] = ()
        self._target: tuple[Vec, Vec] = (self.cap_w, self.cap_mhz)
        self._steady = False

    def step(self, event: ControllerEvent, now_s: float) -> list[Command]:
        """Take one event and say what is to be done."""
        if self.began_s is None:
            self.began_s = now_s
        match event:
            case Sampled():
                self._sampled(event, now_s)
                return []
            case Metered():
                self.readings.metered(event, now_s)
                return []
            case BudgetSet(constraint, budget_w):
                return self._set_budget(constraint, budget_w)
            case Ticked():
                return self._tick(now_s)

    def next_deadline_s(self) -> float | None:
        """The controller acts on ticks and samples; it has no deadline of its own."""
        return None

    def _sampled(self, event: Sampled, now_s: float) -> None:
        news = self.ledger.news(event, now_s)
        if news is not None:
            self.readings.sampled(news, now_s)
            if self.config.leases:
                self.ledger.sampled(news, self.config.epoch, now_s)

    # -- the tick -------------------------------------------------------------------------------------------------

    def _tick(self, now_s: float) -> list[Command]:
        server_w, constraint_w = self.readings.estimate(now_s, self.ledger.possible_w)
        commands = self._brake(self.readings.measured_w, constraint_w, now_s)
        view = FleetView(
            now_s=now_s,
            fleet=self.fleet,
            model=self.model,
            drawn_w=server_w,
            cap_mhz=self.cap_mhz,
            budget_w=self.budget_w,
            constraint_w=constraint_w,
            braked=self.brake.engaged,
            memory=self.memory,
        )
        plan = self.policy.propose(view)
        self.memory, self.because = plan.memory, plan.because
        wanted_w, wanted_mhz = self._wanted(plan.cap_w, plan.cap_mhz)
        if self.config.leases:
            return commands + self._lease(wanted_w, wanted_mhz, now_s)
        return commands + self._send(wanted_w, wanted_mhz, now_s)

    def _wanted(self, cap_w: Vec, cap_mhz: Vec) -> tuple[Vec, Vec]:
        """The plan inside device ranges and, under the hard promise, inside the budgets; cached while nothing moves."""
        key = (cap_w, cap_mhz)
        if len(self._plan_key) == 2 and self._plan_key[0] is cap_w and self._plan_key[1] is cap_mhz:
            return self._target
        wanted_w = clipped_w(cap_w, self.cap_w, self.fleet)
        if self.config.promise is Promise.HARD:
            wanted_w = fitted(wanted_w, self.fleet.failsafe_w, self.constraints, self.budget_w)
        self._target = wanted_w, clipped_mhz(cap_mhz, self.cap_mhz, self.fleet)
        self._plan_key, self._steady = key, False
        return self._target

    def _brake(self, measured_w: Vec, bound_w: Vec, now_s: float) -> list[Command]:
        commands: list[Command] = []
        for constraint, engage in self.brake.judge(measured_w, bound_w, self.budget_w, now_s):
            self._steady = False
            if engage:
                because = f"{measured_w[constraint]:.0f} W drawn of {self.budget_w[constraint]:.0f} W"
                commands.append(EngageBrake(constraint, self.config.brake.cap_mhz, because))
            else:
                commands.append(ReleaseBrake(constraint, "the draw has fallen"))
                members = self.fleet.members[constraint]
                # Clocks read until now were the brake's.
                self.verification.sent(members, now_s)
                if self.config.promise is Promise.HARD:
                    self._slow_again(members)
        return commands

    def _slow_again(self, members: Ints) -> None:
        """Clocks leave the brake a few servers at a time, like any other un-capping."""
        cap_mhz = self.cap_mhz.copy()
        braked_mhz = np.maximum(self.config.brake.cap_mhz, self.fleet.min_mhz[members])
        cap_mhz[members] = np.minimum(cap_mhz[members], braked_mhz)
        self.cap_mhz = cap_mhz

    # -- a path with leases ---------------------------------------------------------------------------------------

    def _lease(self, wanted_w: Vec, wanted_mhz: Vec, now_s: float) -> list[Command]:
        """Renew every lease; change caps where plan and guard want it."""
        if not (self._steady and self.ledger.settled and self.readings.all_fresh):
            self._regrant(wanted_w, wanted_mhz, now_s)
        rows = self.ledger.answering()
        if not isinstance(rows, slice) and rows.size == 0:
            return []
        self.lease_seq += 1
        cap_mhz = self.cap_mhz[rows]
        braking = self.brake.rows(self.fleet)[rows]
        if self.brake.any_engaged:
            cap_mhz = np.where(braking, np.minimum(cap_mhz, self.config.brake.cap_mhz), cap_mhz)
        lease = LeaseVector(
            rows=rows,
            epoch=self.config.epoch,
            seq=self.lease_seq,
            lease_s=self.config.lease_s,
            incarnation=self.ledger.incarnation[rows],
            sample_seq=self.ledger.sample_seq[rows],
            cap_w=self.ledger.granted_w[rows],
            cap_mhz=cap_mhz,
            braking=braking,
        )
        return [GrantLeases(lease)]

    def _regrant(self, wanted_w: Vec, wanted_mhz: Vec, now_s: float) -> None:
        at_most = max(1, int(self.config.raise_share_per_s * self.config.tick_s * self.fleet.nameplate_w.size))
        if self.config.promise is Promise.REACTIVE:
            self.cap_w, self.cap_mhz = wanted_w, wanted_mhz
            granted_w = wanted_w
        else:
            began_s = now_s if self.began_s is None else self.began_s
            taking_over = now_s - began_s < self.config.lease_s + self.config.enforce_s
            raise_w = self.budget_w * (0.0 if taking_over else self.config.raise_share_per_s * self.config.tick_s)
            certain = self.readings.fresh & self.ledger.answered
            books = Books(self.ledger.granted_w, self.ledger.possible_w, certain)
            granted_w = conserved(wanted_w, books, self.fleet, self.constraints, self.budget_w, raise_w)
            self.cap_w = granted_w
            self.cap_mhz = unclocked(wanted_mhz, self.cap_mhz, self.order, at_most)
        self.ledger.grant(granted_w, self.lease_seq + 1)
        arrived = np.array_equal(granted_w, wanted_w) and np.array_equal(self.cap_mhz, wanted_mhz)
        self._steady = arrived

    # -- a path without leases ------------------------------------------------------------------------------------

    def _send(self, wanted_w: Vec, wanted_mhz: Vec, now_s: float) -> list[Command]:
        """Send what has changed, and again what behaviour shows to be lost."""
        commands: list[Command] = []
        if wanted_w is not self.cap_w or wanted_mhz is not self.cap_mhz:
            changed = np.flatnonzero((wanted_w != self.cap_w) | (wanted_mhz != self.cap_mhz))
            self.cap_w, self.cap_mhz = wanted_w, wanted_mhz
            if changed.size:
                self.verification.sent(changed, now_s)
                commands.append(self._caps(changed, reissued=False, because=self.because))
        if self.verification.due(now_s) and not self.brake.any_engaged:
            lost = self.verification.lost(self.readings, self.cap_w, self.cap_mhz)
            if lost.size:
                self.verification.sent(lost, now_s)
                commands.append(self._caps(lost, reissued=True, because="not obeyed"))
        return commands

    def _caps(self, rows: Ints, *, reissued: bool, because: str) -> SetCaps:
        cap_w = self.cap_w[rows]
        uncapped = cap_w >= self.fleet.nameplate_w[rows]
        cap_w = np.where(uncapped, np.inf, cap_w)
        return SetCaps(rows, cap_w, np.full(rows.size, np.nan), self.cap_mhz[rows], reissued, because)

    # -- the operator ---------------------------------------------------------------------------------------------

    def _set_budget(self, constraint: int, budget_w: float) -> list[Command]:
        """Take a new budget, unless the servers could not be brought under it with nobody leading."""
        if not 0.0 < budget_w < np.inf:
            return [Refuse(f"{self.constraints.names[constraint]}: {budget_w} W is no budget")]
        floor_w = float(self.constraints.total(self.fleet.failsafe_w)[constraint])
        if self.config.promise is not Promise.REACTIVE and budget_w < floor_w:
            name = self.constraints.names[constraint]
            return [Refuse(f"{name}: {budget_w:.0f} W is below the failsafe caps' sum of {floor_w:.0f} W")]
        self.budget_w = self.budget_w.copy()
        self.budget_w[constraint] = budget_w
        self._plan_key, self._steady = (), False
        return []

    def charge_w(self) -> Vec:
        """What each server counts for: the most it could be allowed to draw, whatever it draws now [n]."""
        return self.ledger.charge_w()
