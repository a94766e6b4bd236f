"""One run: the plant, its meters and paths, and the same cores that run live, second by second."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from policies.agent_core import AgentCore
from policies.arrays import ALL, Rows, Vec
from policies.brake import BrakeConfig
from policies.commands import Command, EngageBrake, GrantLeases, Publish, ReleaseBrake, SetCaps
from policies.controller_core import ControllerConfig, ControllerCore
from policies.events import AgentEvent, ControllerEvent, Leased, Measured, Metered, Sampled, Ticked
from policies.invariants import ControllerWatch, check_agents
from policies.policy import Policy
from policies.registry import make_policy
from sim_backend.arrivals import ArrivalSource
from sim_backend.fleet import Servers
from sim_backend.meter import RowMeter
from sim_backend.mixed_plant import build_plant
from sim_backend.paths import Actuators
from sim_backend.recorded_load import Demand
from sim_backend.recorder import HOUR_S, Recorder, protection_of
from sim_backend.site import Guarantee, Path, Site

Progress = Callable[[float], None]
"""Told the fraction of a run that is done."""
PROGRESS_EVERY_S = 3_600
CORE_STREAM = 3
"""Keeps the random numbers of cores and paths apart from those of workloads under the same seed (1 and 2)."""


class Journal(Protocol):
    """Where a run's events and commands go, in order."""

    def wrote(self, core: str, event: object, now_s: float, commands: list[Command]) -> None:
        """One step of a core."""
        ...


@dataclass(frozen=True, slots=True)
class RunSpec:
    """One closed loop; everything that decides its outcome."""

    site: Site
    policy: str
    guarantee: Guarantee
    add_pct: float
    seed: int
    check_every: int = 0
    """Invariants are checked every so many steps; 0: never."""


def controller_of(spec: RunSpec, servers: Servers, rng: np.random.Generator) -> ControllerCore:
    """The controller as it would run on this site."""
    site = spec.site
    in_band = site.actuation.path is Path.IN_BAND
    reactive = spec.guarantee is Guarantee.REACTIVE
    reading_s = 1.0 if in_band else float(site.actuation.meter_window_s + site.actuation.meter_delay_s)
    brake = BrakeConfig(after_s=0.0 if reactive else site.settle_s, hold_s=site.actuation.brake_latency_s + reading_s)
    config = ControllerConfig(
        promise=spec.guarantee,
        leases=in_band,
        budget_w=servers.budget_w,
        brake=brake,
        tick_s=site.tick_s,
        lease_s=site.lease_s,
        enforce_s=site.enforce_s,
        settle_s=site.settle_s,
        stale_s=site.stale_s,
        raise_share_per_s=site.raise_share_per_s,
    )
    policy: Policy = make_policy(spec.policy, site.policy.get(spec.policy))
    model = servers.model().disturbed(site.model_error, rng)
    return ControllerCore(config, servers.fleet(site), servers.constraints, policy, model, rng.random(servers.count))


def build_cores(spec: RunSpec, servers: Servers) -> tuple[ControllerCore, AgentCore, np.random.Generator]:
    """Controller and agents of a run, and the generator that its paths draw from."""
    seeds = np.random.SeedSequence(spec.seed, spawn_key=(CORE_STREAM,)).spawn(3)
    controller_rng, agent_rng, path_rng = (np.random.default_rng(s) for s in seeds)
    controller = controller_of(spec, servers, controller_rng)
    agents = AgentCore(servers.agent_config(), agent_rng.integers(1, 2**62, servers.count))
    return controller, agents, path_rng


class ClosedLoop:
    """Plant and cores of one run, advanced a second at a time."""

    def __init__(
        self,
        spec: RunSpec,
        servers: Servers,
        source: ArrivalSource,
        journal: Journal | None = None,
        demand: Demand | None = None,
    ) -> None:
        """Everything at rest at time 0, agents at their failsafe caps; `demand` is the work of servers that record."""
        site = spec.site
        self.spec, self.site, self.servers, self.journal = spec, site, servers, journal
        self.steps = int(source.duration_s)
        self.in_band = site.actuation.path is Path.IN_BAND
        self.plant = build_plant(servers, source, site, demand)
        self.controller, self.agents, path_rng = build_cores(spec, servers)
        config = self.agents.config
        self.actuators = Actuators(site.actuation, config.max_mhz, servers.constraints, path_rng)
        self.meter = RowMeter(servers.constraints.count, site.actuation.meter_window_s, site.actuation.meter_delay_s)
        self.recorder = Recorder(self.steps, servers.priority)
        budgeted = [d for d in site.domains if d.budget_w is not None]
        self.protections = [
            (constraint, protection_of(device.edge, float(d.budget_w or 0.0) * device.derated_ratio))
            for constraint, d in enumerate(budgeted)
            for device in d.protections
        ]
        """What may open, each with the constraint whose load it carries."""
        self.brakes = 0
        self.watch = ControllerWatch(self.controller)
        self._tdp_w = servers.field("tdp_w")
        self._max_mhz = config.max_mhz
        self._enforced_w = config.enforced_w(self._tdp_w)
        self._no_ints = np.zeros(servers.count, dtype=np.int64)
        self._sample_seq = self._no_ints
        self._late: list[tuple[float, Sampled]] = []
        self._ticked = Ticked()
        self._unwritten = self._no_ints[:0]
        """Servers whose agent was told by its device that a write had failed."""
        only = servers.constraints
        self._one_for_all = only.count == 1 and only.columns.size == servers.count

    def run(self, progress: Progress | None = None) -> None:
        """Advance to the end of the workload."""
        if self.in_band:
            for command in self.agents.set_initial():
                self._perform_agent(command, 0.0)
        for k in range(1, self.steps + 1):
            self._second(float(k))
            if k % PROGRESS_EVERY_S == 0 and progress is not None:
                progress(k / self.steps)

    def _second(self, now_s: float) -> None:
        actuators, plant = self.actuators, self.plant
        while actuators.next_due_s < now_s:
            if actuators.next_due_s > plant.now_s:
                plant.advance(actuators.next_due_s)
            actuators.arrive()
            if not actuators.next_due_s <= plant.now_s:
                self._apply_caps()
        plant.advance(now_s)
        server_w = plant.take_mean_w()
        constraint_w = self.servers.constraints.total(server_w)
        drawn_w = constraint_w.tolist()
        for constraint, protection in self.protections:
            protection.advance(drawn_w[constraint])
        total_w = float(constraint_w[0]) if self._one_for_all else float(server_w.sum())
        self.recorder.second(float(constraint_w[0]), total_w, braked=self.controller.brake.any_engaged)
        if now_s % HOUR_S == 0:
            self.recorder.hour(plant)
        self._control(server_w, constraint_w, now_s)

    def _control(self, server_w: Vec, constraint_w: Vec, now_s: float) -> None:
        reading = self.meter.advance(constraint_w)
        if reading is not None:
            for constraint, drawn_w in enumerate(reading.tolist()):
                metered = Metered(constraint, drawn_w, float(self.meter.delay_s))
                self._controller_step(metered, now_s)
        if self._unwritten.size:
            self._write_again(now_s)
        if self.in_band:
            measured = Measured(ALL, server_w, self._clock_mhz(), self._enforced_w)
            self._agents_step(measured, now_s)
        elif now_s % self.site.actuation.sample_period_s == 0:
            self._sample_out_of_band(server_w, now_s)
        if self._late:
            self._deliver_samples(now_s)
        self._controller_step(self._ticked, now_s)
        if self.spec.check_every and now_s % self.spec.check_every == 0:
            check_agents(self.agents, now_s)
            self.watch.check()

    def _clock_mhz(self) -> Vec:
        return np.where(self.plant.busy, self.plant.clock_ratio * self._max_mhz, np.nan)

    def _sample_out_of_band(self, server_w: Vec, now_s: float) -> None:
        """A management controller's reading: power and clock, nothing that would answer a lease."""
        self._sample_seq = self._sample_seq + 1
        sample = Sampled(
            rows=ALL,
            incarnation=self._no_ints,
            seq=self._sample_seq,
            age_s=0.0,
            drawn_w=server_w,
            clock_mhz=self._clock_mhz(),
            enforced_w=self._enforced_w,
            epoch=self._no_ints,
            lease_seq=self._no_ints,
        )
        self._late.append((now_s + self.site.actuation.sample_delay_s, sample))

    def _deliver_samples(self, now_s: float) -> None:
        while self._late and self._late[0][0] <= now_s:
            due_s, sample = self._late.pop(0)
            age_s = now_s - due_s + self.site.actuation.sample_delay_s
            aged = replace(sample, age_s=age_s)
            self._controller_step(aged, now_s)

    # -- steps and what they ask for ------------------------------------------------------------------------------

    def _controller_step(self, event: ControllerEvent, now_s: float) -> None:
        commands = self.controller.step(event, now_s)
        if self.journal is not None:
            self.journal.wrote("controller", event, now_s, commands)
        for command in commands:
            self._perform_controller(command, now_s)

    def _agents_step(self, event: AgentEvent, now_s: float) -> None:
        commands = self.agents.step(event, now_s)
        if self.journal is not None:
            self.journal.wrote("agents", event, now_s, commands)
        for command in commands:
            self._perform_agent(command, now_s)

    def _perform_controller(self, command: Command, now_s: float) -> None:
        match command:
            case GrantLeases(lease):
                self._agents_step(Leased(lease), now_s)
            case SetCaps():
                limit_w = self._limits_w(command.cap_w, command.rows)
                self.actuators.send_caps(command.rows, command.cap_mhz, limit_w, now_s, reissued=command.reissued)
            case EngageBrake():
                self.brakes += 1
                self._send_brake(command.constraint, command.cap_mhz, now_s)
            case ReleaseBrake():
                self._send_brake(command.constraint, np.inf, now_s)

    def _perform_agent(self, command: Command, now_s: float) -> None:
        match command:
            case Publish(sample):
                if self.site.actuation.sample_delay_s == 0:
                    self._controller_step(sample, now_s)
                else:
                    self._late.append((now_s + self.site.actuation.sample_delay_s, sample))
            case SetCaps():
                self._write(command.rows, command.cap_mhz, command.gpu_limit_w, now_s, reissued=False)

    def _write(self, rows: Rows, cap_mhz: Vec, limit_w: Vec, now_s: float, *, reissued: bool) -> None:
        """What an agent's shell does: write to its devices, and keep in mind which of them said no."""
        lost = self.actuators.send_caps(rows, cap_mhz, limit_w, now_s, reissued=reissued)
        if lost.size or self._unwritten.size:
            elsewhere = np.setdiff1d(self._unwritten, self.actuators.index[rows])
            self._unwritten = np.union1d(elsewhere, lost)

    def _write_again(self, now_s: float) -> None:
        """Try once more with the caps that hold by now."""
        rows, agents = self._unwritten, self.agents
        limit_w = agents.config.gpu_limit_w(agents.cap_w[rows], rows)
        self._write(rows, agents.cap_mhz[rows], limit_w, now_s, reissued=True)

    def _limits_w(self, cap_w: Vec, rows: Rows) -> Vec:
        """A server cap as GPU limits, as the management controller would set it; none for an uncapped server."""
        limit_w = self.agents.config.gpu_limit_w(np.where(np.isinf(cap_w), 0.0, cap_w), rows)
        return np.where(np.isinf(cap_w), np.inf, limit_w)

    def _send_brake(self, constraint: int, cap_mhz: float, now_s: float) -> None:
        # In-band the leases themselves carry the brake's clock.
        if not self.in_band:
            self.actuators.send_brake(constraint, cap_mhz, now_s)

    def _apply_caps(self) -> None:
        clock_mhz = self.actuators.clock_mhz()
        limit_w = self.actuators.gpu_limit_w
        self.plant.set_caps(clock_mhz / self._max_mhz, limit_w)
        self._enforced_w = self.agents.config.enforced_w(np.minimum(limit_w, self._tdp_w))
        self.recorder.caps_changed((clock_mhz < self._max_mhz) | (limit_w < self._tdp_w))
