"""Small cores for tests: literals in, commands out, and the invariants checked after every step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from policies.agent_core import AgentConfig, AgentCore
from policies.arrays import ALL, Rows, Vec
from policies.brake import BrakeConfig
from policies.commands import Command
from policies.controller_core import ControllerConfig, ControllerCore, Promise
from policies.events import AgentEvent, ControllerEvent, LeaseVector, Sampled
from policies.invariants import ControllerWatch, check_agents
from policies.models.fleet import FleetModel
from policies.policy import Fleet, FleetView, Plan
from policies.topology import Constraints, Topology

FAILSAFE_W, NAMEPLATE_W = 4_000.0, 10_200.0
MAX_MHZ, MIN_MHZ = 1_980.0, 345.0
Numbers = float | Sequence[float]


def spread(value: Numbers, n: int) -> Vec:
    """One number for all, or one each."""
    return np.broadcast_to(np.asarray(value, dtype=np.float64), (n,)).copy()


def ints(value: int | Sequence[int], n: int) -> "np.ndarray":
    return np.broadcast_to(np.asarray(value, dtype=np.int64), (n,)).copy()


def agent_config(n: int, *, failsafe_w: Numbers = FAILSAFE_W, nameplate_w: Numbers = NAMEPLATE_W) -> AgentConfig:
    """Servers of eight GPUs."""
    return AgentConfig(
        failsafe_w=spread(failsafe_w, n),
        nameplate_w=spread(nameplate_w, n),
        other_max_w=spread(1_000.0, n),
        gpus=spread(8.0, n),
        overshoot_ratio=spread(1.05, n),
        min_limit_w=spread(100.0, n),
        max_mhz=spread(MAX_MHZ, n),
        min_mhz=spread(MIN_MHZ, n),
    )


class Agents(AgentCore):
    """Agents that check their invariants after every step."""

    def step(self, event: AgentEvent, now_s: float) -> list[Command]:
        commands = super().step(event, now_s)
        check_agents(self, now_s)
        return commands


def agents(n: int = 1, *, failsafe_w: Numbers = FAILSAFE_W, nameplate_w: Numbers = NAMEPLATE_W) -> Agents:
    """Agents 1000, 1001, ... as they start."""
    return Agents(agent_config(n, failsafe_w=failsafe_w, nameplate_w=nameplate_w), np.arange(n) + 1_000)


def lease_of(
    core: AgentCore, cap_w: Numbers, *, seq: int, sample_seq: int = 1, cap_mhz: Numbers = np.inf
) -> LeaseVector:
    """A lease of epoch 1 for ten seconds to every server of `core`, answering its sample `sample_seq`."""
    return LeaseVector(
        rows=ALL,
        epoch=1,
        seq=seq,
        lease_s=10.0,
        incarnation=core.incarnation.copy(),
        sample_seq=ints(sample_seq, core.n),
        cap_w=spread(cap_w, core.n),
        cap_mhz=spread(cap_mhz, core.n),
        braking=np.zeros(core.n, dtype=np.bool_),
    )


def one_tree(n: int) -> Constraints:
    """One constraint over all servers."""
    return Constraints.of_tree(Topology(["row"], [-1], np.zeros(n, dtype=np.int64)), [0])


def fleet_of(
    n: int,
    constraints: Constraints | None = None,
    *,
    failsafe_w: Numbers = FAILSAFE_W,
    nameplate_w: Numbers = NAMEPLATE_W,
    cap_latency_s: float = 1.0,
) -> Fleet:
    """Facts of servers that alternate between low and high priority."""
    over = one_tree(n) if constraints is None else constraints
    return Fleet(
        priority=np.arange(n) % 2,
        nameplate_w=spread(nameplate_w, n),
        failsafe_w=spread(failsafe_w, n),
        max_mhz=spread(MAX_MHZ, n),
        min_mhz=spread(MIN_MHZ, n),
        members=tuple(over.servers(c) for c in range(over.count)),
        cap_latency_s=cap_latency_s,
        effect_s=cap_latency_s + 2.0,
    )


def model_of(n: int) -> FleetModel:
    return FleetModel(spread(1_000.0, n), spread(0.3, n), spread(2.4, n), spread(MAX_MHZ, n))


class Wish:
    """A policy that proposes what the test says."""

    def __init__(self, n: int) -> None:
        self.cap_w = np.full(n, np.inf)
        self.cap_mhz = np.full(n, np.inf)
        self.seen: FleetView | None = None

    def propose(self, view: FleetView) -> Plan:
        self.seen = view
        return Plan(self.cap_w, self.cap_mhz, None, "wish")

    def caps(self, cap_w: Numbers) -> None:
        self.cap_w = spread(cap_w, self.cap_w.size)

    def clocks(self, cap_mhz: Numbers) -> None:
        self.cap_mhz = spread(cap_mhz, self.cap_mhz.size)


class Controller(ControllerCore):
    """A controller that checks its invariants after every step."""

    watch: ControllerWatch | None = None

    def step(self, event: ControllerEvent, now_s: float) -> list[Command]:
        if self.watch is None:
            self.watch = ControllerWatch(self)
        commands = super().step(event, now_s)
        self.watch.check()
        return commands


HARD = ControllerConfig(
    promise=Promise.HARD,
    leases=True,
    budget_w=np.array([16_000.0]),
    brake=BrakeConfig(cap_mhz=400.0, after_s=2.0, hold_s=3.0),
)
OUT_OF_BAND = replace(HARD, promise=Promise.REACTIVE, leases=False, brake=BrakeConfig(cap_mhz=400.0, hold_s=5.0))


@dataclass(eq=False)
class Desk:
    """A controller, and the agents it leads when nothing is lost or late."""

    controller: Controller
    wish: Wish
    agents: Agents


def desk(n: int = 2, config: ControllerConfig = HARD, *, cap_latency_s: float = 1.0) -> Desk:
    """A controller over `n` servers under one budget, whose policy is a `Wish`."""
    wish, constraints = Wish(n), one_tree(n)
    fleet = fleet_of(n, constraints, cap_latency_s=cap_latency_s)
    controller = Controller(config, fleet, constraints, wish, model_of(n), np.linspace(0.9, 0.1, n))
    return Desk(controller, wish, agents(n))


def sample_of(core: AgentCore, drawn_w: Numbers, *, enforced_w: Numbers | None = None, rows: Rows = ALL) -> Sampled:
    """What the agents would report now, one sample later than the last."""
    index = np.arange(core.n)[rows]
    k = index.size
    core.sample_seq[index] += 1
    return Sampled(
        rows=rows if isinstance(rows, slice) else index,
        incarnation=core.incarnation[index],
        seq=core.sample_seq[index].copy(),
        age_s=0.0,
        drawn_w=spread(drawn_w, k),
        clock_mhz=np.full(k, MAX_MHZ),
        enforced_w=core.cap_w[index].copy() if enforced_w is None else spread(enforced_w, k),
        epoch=core.epoch[index].copy(),
        lease_seq=core.lease_seq[index].copy(),
    )
