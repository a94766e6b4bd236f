"""Seeded storms: the real cores, a toy fleet, everything going wrong at once, and the promise checked at every step.

`make sim SEED=7` runs one; `python -m tests.simulation.storm --seeds 0-999` runs many.
"""

import argparse
import sys
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np

from policies.agent_core import AgentCore
from policies.arrays import Flags, Ints, Vec
from policies.brake import BrakeConfig
from policies.commands import Command, EngageBrake, GrantLeases, Publish, Refuse, SetCaps
from policies.controller_core import ControllerConfig, ControllerCore, Promise
from policies.events import AgentEvent, BudgetSet, ControllerEvent, Leased, Measured, Metered, Restarted, Ticked
from policies.guard import fitted
from policies.invariants import ControllerWatch, check_agents
from policies.modes import Mode
from policies.policy import Policy
from policies.registry import POLICIES, make_policy
from tests.simulation.network import Network, Partition, Weather, part_of_lease
from tests.simulation.toy import ENFORCE_S, LIES, STEP_S, Hardware, Sensors, Wild, random_site

CALM_S = 75.0
"""After a storm: longer than the latest message, a takeover and the slowest un-capping together."""
LEASE_S, SETTLE_S = 10.0, 2.0
ROUNDING_W = 0.01
AGENT_CLOCK_S, CONTROLLER_CLOCK_S = 5_000.0, 70_000.0
"""Clocks of different hosts have nothing in common."""


class StormFailed(AssertionError):
    """What broke, when, what had happened just before, and how to see it again."""


@dataclass(eq=False)
class Life:
    """One controller, from its first step to its end."""

    epoch: int
    born_s: float
    dies_s: float
    core: ControllerCore
    watch: ControllerWatch

    @property
    def clock_s(self) -> float:
        return CONTROLLER_CLOCK_S * self.epoch


class Storm:
    """One storm; everything in it follows from its seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = rng = np.random.default_rng(seed)
        self.site = random_site(rng)
        n = self.site.count
        self.now_s = 0.0
        self.end_s = float(rng.integers(60, 150))
        self.hardware, self.sensors = Hardware(self.site, rng), Sensors(self.site, rng)
        self.agents = AgentCore(self.site.config, self._incarnations(n))
        self.down_until_s = np.full(n, -np.inf)
        self.paused_until_s = np.full(n, -np.inf)
        self.stuck_until_s = np.full(n, -np.inf)
        self.lies_until_s = np.full(n, -np.inf)
        self.kept: Flags = np.ones(n, dtype=np.bool_)
        self.bound_w = np.full(n, np.inf)
        """What stood when a row went over to its present epoch."""
        self.budget_w = self.site.budget_w.copy()
        self.lives: list[Life] = []
        self.births_s = self._births_s()
        self.overlap = bool(rng.random() < 0.6)
        self.ages_known = bool(rng.random() < 0.7)
        self.metered = bool(rng.random() < 0.3)
        self.phase = int(rng.integers(0, 2))
        self.surges_s = [(float(s), float(s + rng.uniform(2, 20))) for s in rng.uniform(0, self.end_s, 3)]
        self.network = Network(self._weather(), self._partitions(n), rng)
        self.hazard = float(rng.choice([0.0, 0.002, 0.01]))
        self.story: deque[str] = deque(maxlen=40)
        self.counts: Counter[str] = Counter()

    # -- what will go wrong ---------------------------------------------------------------------------------------

    def _incarnations(self, count: int) -> Ints:
        return self.rng.integers(1, 2**62, count)

    def _births_s(self) -> list[float]:
        later = sorted(self.rng.uniform(5.0, self.end_s, int(self.rng.integers(0, 4))).tolist())
        return [0.0, *later]

    def _weather(self) -> Weather:
        rng = self.rng
        return Weather(
            loss=float(rng.choice([0.0, 0.1, 0.4])),
            repeat=float(rng.choice([0.0, 0.1, 0.5])),
            late=float(rng.choice([0.0, 0.05, 0.3])),
            latest_s=float(rng.choice([3.0, 12.0, 60.0])),
            usual_s=float(rng.choice([0.02, 0.3])),
        )

    def _partitions(self, n: int) -> list[Partition]:
        rng, partitions = self.rng, []
        for _ in range(int(rng.integers(0, 6))):
            from_s = float(rng.uniform(0.0, self.end_s))
            up, down = [(True, True), (True, False), (False, True)][int(rng.integers(0, 3))]
            epoch = None if rng.random() < 0.4 else int(rng.integers(1, 4))
            cut = rng.random(n) < rng.choice([0.3, 1.0])
            partitions.append(Partition(from_s, from_s + float(rng.uniform(2, 40)), cut, epoch, up, down))
        return partitions

    def _policy(self, until_s: float) -> Policy:
        if self.rng.random() < 0.7:
            return Wild(self.seed, until_s, float(self.rng.choice([3.0, 8.0, 20.0])))
        return make_policy(str(self.rng.choice(list(POLICIES))))

    # -- running --------------------------------------------------------------------------------------------------

    def run(self) -> Counter[str]:
        """Weather it, then see whether everything recovers."""
        try:
            self._perform(self.agents.set_initial())
            while self.now_s < self.end_s + CALM_S:
                if self.now_s == self.end_s:
                    self._calm_down()
                self._step()
                self.now_s += STEP_S
            self._check_recovery()
        except Exception as error:
            story = "\n  ".join(self.story)
            raise StormFailed(
                f"storm {self.seed}, {self.now_s:.1f} s: {error}\n  {story}\nagain: make sim SEED={self.seed}"
            ) from error
        return self.counts

    def _step(self) -> None:
        t = self.now_s
        calm = t >= self.end_s
        if not calm:
            self._misfortunes()
        self._controllers_come_and_go(calm=calm)
        self._wake()
        surge = not calm and any(a <= t < b for a, b in self.surges_s)
        self.hardware.advance(t, surge=surge, calm=calm)
        for lease in self.network.leases(t):
            keep = [k for k, row in enumerate(np.asarray(lease.rows).tolist()) if self._awake(row)]
            if keep:
                self._agents(Leased(part_of_lease(lease, np.asarray(lease.rows), keep)))
        self._agents(Ticked())
        if int(t / STEP_S) % 2 == self.phase:
            self._measure()
        self.sensors.passed(self.hardware)
        for life in self.lives:
            self._lead(life)
        self._check()

    def _awake(self, row: int) -> bool:
        return bool(self.down_until_s[row] <= self.now_s and self.paused_until_s[row] <= self.now_s)

    def _measure(self) -> None:
        rows = np.array([row for row in range(self.site.count) if self._awake(row)], dtype=np.intp)
        if rows.size:
            drawn_w, clock_mhz, enforced_w = self.sensors.read(self.hardware)
            self._agents(Measured(rows, drawn_w[rows], clock_mhz[rows], enforced_w[rows]))

    def _lead(self, life: Life) -> None:
        for sample in self.network.samples(life.epoch, self.now_s, ages_known=self.ages_known):
            self._controller(life, sample)
        if int(self.now_s / STEP_S) % 2 == life.epoch % 2:
            if self.metered and self.rng.random() < 0.5:
                drawn_w = self.site.constraints.total(self.hardware.drawn_w)
                constraint = int(self.rng.integers(0, drawn_w.size))
                self._controller(life, Metered(constraint, float(drawn_w[constraint]), 2.0))
            self._controller(life, Ticked())

    # -- cores and what they ask for ------------------------------------------------------------------------------

    def _agents(self, event: AgentEvent) -> None:
        agents = self.agents
        epoch, cap_w, mode, refused = agents.epoch.copy(), agents.cap_w.copy(), agents.mode.copy(), agents.refused
        commands = agents.step(event, self.now_s + AGENT_CLOCK_S)
        over = agents.epoch > epoch
        self.bound_w[over] = np.maximum(cap_w, self.site.config.failsafe_w)[over]
        self.counts["taken over"] += int(over.sum())
        self.counts["refused"] += agents.refused - refused
        self.counts["fell back"] += int(((mode != Mode.FAILSAFE) & (agents.mode == Mode.FAILSAFE)).sum())
        self.counts["reflex"] += int(((mode != Mode.REFLEX) & (agents.mode == Mode.REFLEX)).sum())
        self.counts["raised"] += int((agents.cap_w > cap_w + 1.0).sum())
        self.counts["lowered"] += int((agents.cap_w < cap_w - 1.0).sum())
        self._perform(commands)

    def _perform(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case SetCaps():
                    rows = np.arange(self.site.count)[command.rows]
                    up = self.down_until_s[rows] <= self.now_s
                    if up.any():
                        self.hardware.order(rows[up], command.gpu_limit_w[up], command.cap_mhz[up], self.now_s)
                case Publish(sample):
                    self.network.send_samples(sample, [life.epoch for life in self.lives], self.now_s)

    def _controller(self, life: Life, event: ControllerEvent) -> list[Command]:
        commands = life.core.step(event, self.now_s + life.clock_s)
        life.watch.check()
        for command in commands:
            match command:
                case GrantLeases(lease):
                    self.network.send_leases(lease, self.site.count, self.now_s)
                case EngageBrake():
                    self.counts["brakes"] += 1
        return commands

    # -- misfortunes ----------------------------------------------------------------------------------------------

    def _tell(self, what: str) -> None:
        self.story.append(f"{self.now_s:.1f} s: {what}")

    def _misfortunes(self) -> None:
        n, t = self.site.count, self.now_s
        hit = self.rng.random((4, n)) < self.hazard
        lasting_s = self.rng.exponential(15.0, (4, n)) + 1.0
        for row in np.flatnonzero(hit[0] & (self.down_until_s <= t)).tolist():
            self.down_until_s[row] = t + lasting_s[0, row]
            fall_to_w = np.minimum(self.agents.cap_w[[row]], self.site.config.failsafe_w[[row]])
            self.hardware.fall_to(np.array([row]), fall_to_w, t)
            self._tell(f"agent {row} dies for {lasting_s[0, row]:.1f} s")
        for row in np.flatnonzero(hit[1]).tolist():
            self.paused_until_s[row] = self.stuck_until_s[row] = t + lasting_s[1, row]
            self._tell(f"host {row} pauses for {lasting_s[1, row]:.1f} s")
        for row in np.flatnonzero(hit[2]).tolist():
            self.stuck_until_s[row] = t + lasting_s[2, row]
            self._tell(f"GPUs of {row} hang for {lasting_s[2, row]:.1f} s")
        for row in np.flatnonzero(hit[3]).tolist():
            self.sensors.lie[row] = str(self.rng.choice(LIES))
            self.lies_until_s[row] = t + lasting_s[3, row]
            self._tell(f"sensor of {row} lies: {self.sensors.lie[row]}")
        if self.rng.random() < 0.01:
            self._set_budget()

    def _wake(self) -> None:
        t = self.now_s
        self.hardware.stuck = self.stuck_until_s > t
        for row in np.flatnonzero(self.lies_until_s <= t).tolist():
            self.sensors.lie[row] = None
        back = np.flatnonzero((self.down_until_s <= t) & np.isfinite(self.down_until_s))
        if back.size:
            self.down_until_s[back] = -np.inf
            kept_w = np.where(self.rng.random(back.size) < 0.3, np.nan, self.agents.cap_w[back])
            # Who was obeyed must be remembered where two may lead: without it the older one could be obeyed again.
            lost = (self.rng.random(back.size) < 0.3) & (not self.overlap)
            kept_epoch = np.where(lost, 0, self.agents.epoch[back])
            self.counts["restarts"] += back.size
            self._tell(f"agents {back.tolist()} are back, remembering {kept_w.tolist()} W of epochs {kept_epoch}")
            self._agents(Restarted(back, self._incarnations(back.size), kept_w, kept_epoch))

    def _set_budget(self) -> None:
        c = int(self.rng.integers(0, self.budget_w.size))
        highest_w, floor_w = float(self.site.budget_w[c]), float(self.site.floor_w[c])
        budget_w = floor_w + (highest_w - floor_w) * float(self.rng.choice([-0.5, 0.0, 0.2, 0.7, 1.0, np.nan]))
        self._tell(f"budget {c} is to be {budget_w:.0f} W")
        for life in self.lives:
            refused = any(isinstance(r, Refuse) for r in self._controller(life, BudgetSet(c, budget_w)))
            assert refused == (not budget_w >= floor_w), "a budget below the failsafe caps must be refused, no other"
        if budget_w >= floor_w:
            self.budget_w[c] = budget_w
            self.counts["budgets"] += 1

    def _controllers_come_and_go(self, *, calm: bool) -> None:
        t = self.now_s
        for life in [each for each in self.lives if each.dies_s <= t]:
            self._tell(f"controller {life.epoch} dies")
            self.lives.remove(life)
            self.network.forget(life.epoch)
        while self.births_s and self.births_s[0] <= t:
            self.births_s.pop(0)
            self._birth(calm=calm)

    def _birth(self, *, calm: bool) -> None:
        t, rng = self.now_s, self.rng
        epoch = self.counts["controllers"] + 1
        self.counts["controllers"] = epoch
        for older in self.lives:
            older.dies_s = max(t, min(older.dies_s, t + float(rng.uniform(1.0, 120.0)))) if self.overlap else t
            if older.dies_s <= t:
                self.network.forget(older.epoch)
            self.counts["both alive"] += int(self.overlap)
        self.lives = [each for each in self.lives if each.dies_s > t]
        config = ControllerConfig(
            promise=Promise.HARD,
            leases=True,
            budget_w=self.budget_w,
            brake=BrakeConfig(cap_mhz=400.0, after_s=SETTLE_S, hold_s=3.0),
            epoch=epoch,
            lease_s=LEASE_S,
            enforce_s=ENFORCE_S,
            settle_s=SETTLE_S,
        )
        site = self.site
        policy = self._policy(self.end_s + CONTROLLER_CLOCK_S * epoch)
        core = ControllerCore(config, site.fleet, site.constraints, policy, site.model, rng.random(site.count))
        dies_s = np.inf if calm or rng.random() < 0.8 else t + float(rng.uniform(5.0, 60.0))
        self.lives.append(Life(epoch, t, dies_s, core, ControllerWatch(core)))
        self._tell(f"controller {epoch} begins ({type(policy).__name__})")

    def _calm_down(self) -> None:
        self._tell("calm")
        self.network.calm = True
        for until_s in (self.paused_until_s, self.stuck_until_s, self.lies_until_s, self.down_until_s):
            until_s[until_s > self.now_s] = self.now_s
        for life in self.lives:
            newest = life.epoch == self.counts["controllers"]
            life.dies_s = np.inf if newest else self.now_s
        self.births_s = []
        if not any(np.isinf(life.dies_s) for life in self.lives):
            self.births_s = [self.now_s]

    # -- what must hold -------------------------------------------------------------------------------------------

    def in_force_w(self) -> Vec:
        """The most each server can draw now: what its GPUs hold, or its agent is about to set."""
        alive = self.down_until_s <= self.now_s
        return np.maximum(self.hardware.limit_w, np.where(alive, self.agents.cap_w, 0.0))

    def _check(self) -> None:
        site, agents = self.site, self.agents
        check_agents(agents, self.now_s + AGENT_CLOCK_S)
        in_force_w = self.in_force_w()
        sums_w = site.constraints.total(in_force_w)
        over = sums_w > site.budget_w + ROUNDING_W * site.count
        assert not over.any(), f"I1: caps in force add up to {sums_w} W, budgets {site.budget_w} W: {in_force_w}"
        for life in self.lives:
            charge_w = life.core.charge_w()
            wrong = (agents.epoch <= life.epoch) & (in_force_w > charge_w + ROUNDING_W)
            rows = np.flatnonzero(wrong)
            assert not wrong.any(), f"books of {life.epoch}: rows {rows} hold {in_force_w[rows]}, not {charge_w[rows]}"
            if life.core.began_s is None or self.now_s - life.born_s >= LEASE_S + ENFORCE_S:
                continue
            rose = (agents.epoch == life.epoch) & (agents.cap_w > self.bound_w + ROUNDING_W)
            assert not rose.any(), f"epoch {life.epoch} raised rows {np.flatnonzero(rose)} while taking over"

    def _check_recovery(self) -> None:
        site, agents = self.site, self.agents
        core = self.lives[-1].core
        assert (agents.mode == Mode.LEASED).all(), f"modes after the storm: {agents.mode}"
        reachable_w = fitted(site.fleet.nameplate_w, site.fleet.failsafe_w, site.constraints, self.budget_w)
        short = agents.cap_w < 0.97 * reachable_w
        assert not short.any(), f"rows {np.flatnonzero(short)} hold {agents.cap_w} W of {reachable_w} W"
        if isinstance(core.policy, Wild):
            sums_w = site.constraints.total(self.in_force_w())
            assert (sums_w <= self.budget_w + 1.0).all(), f"{sums_w} W in force, budgets {self.budget_w} W"
        assert not core.brake.any_engaged, "the brake is still engaged"
        slow = agents.cap_mhz < site.fleet.max_mhz
        assert not slow.any(), f"rows {np.flatnonzero(slow)} are slow: {agents.cap_mhz}"


def main(arguments: list[str]) -> int:
    """Run storms of a range of seeds and name those that fail."""
    parser = argparse.ArgumentParser(description="storms against the cores")
    parser.add_argument("--seeds", default="0-99", help="first-last")
    first, last = (int(part) for part in parser.parse_args(arguments).seeds.split("-"))
    failed = 0
    totals: Counter[str] = Counter()
    for seed in range(first, last + 1):
        try:
            totals += Storm(seed).run()
        except StormFailed as failure:
            failed += 1
            sys.stdout.write(f"{failure}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{last - first + 1} storms, {failed} failed; {dict(totals)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
