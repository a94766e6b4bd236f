"""A site small enough to drown in faults: random servers, budgets, loads; hardware that obeys late or not at all."""

from dataclasses import dataclass

import numpy as np

from policies.agent_core import AgentConfig
from policies.arrays import ALL, Flags, Ints, Rows, Vec
from policies.models.fleet import FleetModel
from policies.policy import Fleet, FleetView, Plan
from policies.topology import Constraints, Topology

STEP_S = 0.5
ENFORCE_S = 1.0
"""Longest from a command to the hardware obeying it."""


@dataclass(frozen=True, slots=True, eq=False)
class ToySite:
    """Servers and the budgets over them."""

    config: AgentConfig
    fleet: Fleet
    model: FleetModel
    constraints: Constraints
    budget_w: Vec
    floor_w: Vec
    """Sum of the failsafe caps in each constraint."""

    @property
    def count(self) -> int:
        return self.fleet.nameplate_w.size


def random_constraints(rng: np.random.Generator, n: int) -> Constraints:
    """Site, rows and racks; sometimes a pair of feeds that share their servers' watts."""
    rows = int(rng.integers(1, 4))
    racks = [int(rng.integers(1, 3)) for _ in range(rows)]
    parents = [-1, *[0] * rows, *[1 + row for row, count in enumerate(racks) for _ in range(count)]]
    leaves = np.arange(1 + rows, len(parents))
    topology = Topology([f"d{k}" for k in range(len(parents))], parents, rng.choice(leaves, n))
    fed = [d for d in range(len(parents)) if topology.servers_below(d).size]
    budgeted = [d for d in fed if d == 0 or rng.random() < 0.6]
    tree = Constraints.of_tree(topology, budgeted)
    if rng.random() < 0.6:
        return tree
    share = rng.choice([0.4, 0.6, 1.0], n)
    return Constraints(
        (*tree.names, "feed-a"),
        np.append(tree.start, tree.start[-1] + n),
        np.concatenate((tree.columns, np.arange(n))),
        np.concatenate((tree.share, share)),
    )


def random_site(rng: np.random.Generator) -> ToySite:
    """More servers than any budget feeds at nameplate; the failsafe caps always fit."""
    n = int(rng.integers(1, 19))
    nameplate_w = rng.uniform(3_000.0, 10_000.0, n)
    failsafe_w = nameplate_w * rng.uniform(0.25, 0.5, n)
    max_mhz, min_mhz = np.full(n, 1_980.0), np.full(n, 345.0)
    other_w = 0.2 * failsafe_w
    config = AgentConfig(
        failsafe_w=failsafe_w,
        nameplate_w=nameplate_w,
        other_max_w=other_w,
        gpus=np.full(n, 8.0),
        overshoot_ratio=np.full(n, 1.05),
        min_limit_w=failsafe_w * 0.8 / 8.4 * 0.9,
        max_mhz=max_mhz,
        min_mhz=min_mhz,
    )
    constraints = random_constraints(rng, n)
    members = tuple(constraints.servers(c) for c in range(constraints.count))
    priority = rng.integers(0, 2, n)
    fleet = Fleet(priority, nameplate_w, failsafe_w, max_mhz, min_mhz, members, cap_latency_s=1.0, effect_s=3.0)
    model = FleetModel(other_w, np.full(n, 0.3), np.full(n, 2.4), max_mhz)
    floor_w, most_w = constraints.total(failsafe_w), constraints.total(nameplate_w)
    budget_w = floor_w + (most_w - floor_w) * rng.uniform(0.02, 0.9, constraints.count)
    return ToySite(config, fleet, model, constraints, budget_w, floor_w)


class Wild:
    """A policy of which every proposal is nonsense, until it comes to its senses and asks for everything."""

    def __init__(self, seed: int, until_s: float, period_s: float) -> None:
        self.seed, self.until_s, self.period_s = seed, until_s, period_s

    def propose(self, view: FleetView) -> Plan:
        n = view.drawn_w.size
        if view.now_s >= self.until_s:
            return Plan(np.full(n, np.inf), np.full(n, np.inf), None, "open")
        rng = np.random.default_rng((self.seed, int(view.now_s // self.period_s)))
        odd = np.array([np.nan, np.inf, -np.inf, -5.0, 0.0])
        cap_w = np.where(rng.random(n) < 0.3, rng.choice(odd, n), rng.uniform(0.0, 1.5, n) * view.fleet.nameplate_w)
        cap_mhz = np.where(rng.random(n) < 0.3, rng.choice(odd, n), rng.uniform(0.0, 3_000.0, n))
        return Plan(cap_w, cap_mhz, None, "wild")


class Hardware:
    """Limits as the GPUs hold them: set with a delay, and not at all while a host hangs."""

    def __init__(self, site: ToySite, rng: np.random.Generator) -> None:
        self.site, self.rng = site, rng
        self.limit_w = site.fleet.failsafe_w.copy()
        self.clock_ratio = np.ones(site.count)
        self.stuck: Flags = np.zeros(site.count, dtype=np.bool_)
        self._ordered_w = self.limit_w.copy()
        self._ordered_ratio = np.ones(site.count)
        self._due_s = np.full(site.count, np.inf)
        self.demand_w = site.fleet.nameplate_w * rng.uniform(0.2, 0.9, site.count)
        self.drawn_w = np.minimum(self.demand_w, self.limit_w)

    def order(self, rows: Rows, gpu_limit_w: Vec, cap_mhz: Vec, now_s: float) -> None:
        """A command to the GPUs of `rows`; the last one wins."""
        index = np.arange(self.site.count)[rows]
        self._ordered_w[index] = self.site.config.enforced_w(gpu_limit_w, rows)
        self._ordered_ratio[index] = cap_mhz / self.site.fleet.max_mhz[index]
        due_s = now_s + self.rng.choice([0.0, STEP_S, ENFORCE_S], index.size)
        self._due_s[index] = np.minimum(np.where(np.isinf(self._due_s[index]), due_s, self._due_s[index]), due_s)

    def fall_to(self, rows: Ints, cap_w: Vec, now_s: float) -> None:
        """What runs after an agent's death: the failsafe cap, or what is lower."""
        self.order(rows, self.site.config.gpu_limit_w(cap_w, rows), self.site.fleet.max_mhz[rows], now_s)

    def advance(self, now_s: float, *, surge: bool, calm: bool) -> None:
        """Obey what is due, and draw."""
        due = (self._due_s <= now_s) & ~self.stuck
        self.limit_w[due] = self._ordered_w[due]
        self.clock_ratio[due] = self._ordered_ratio[due]
        self._due_s[due] = np.inf
        nameplate_w = self.site.fleet.nameplate_w
        walk = self.demand_w + nameplate_w * self.rng.normal(0.0, 0.05, self.site.count)
        self.demand_w = np.clip(walk, 0.12 * nameplate_w, nameplate_w)
        wanted_w = nameplate_w if surge else self.demand_w
        if calm:
            wanted_w = 0.15 * nameplate_w
        idle_w = 0.12 * nameplate_w
        self.drawn_w = np.minimum(idle_w + (wanted_w - idle_w) * self.clock_ratio, self.limit_w)


LIES = ("nothing", "zero", "negative", "huge", "frozen", "random", "unread limit")


class Sensors:
    """What agents read: the truth, unless told to lie."""

    def __init__(self, site: ToySite, rng: np.random.Generator) -> None:
        self.site, self.rng = site, rng
        self.lie: list[str | None] = [None] * site.count
        self._before_w = np.zeros(site.count)
        self._frozen_w = np.zeros(site.count)

    def read(self, hardware: Hardware) -> tuple[Vec, Vec, Vec]:
        """Draw as a mean over a second, clock, and the limits read back as a server cap."""
        drawn_w = (self._before_w + hardware.drawn_w) / 2.0
        enforced_w = hardware.limit_w.copy()
        clock_mhz = hardware.clock_ratio * self.site.fleet.max_mhz
        for row, lie in enumerate(self.lie):
            if lie is None:
                self._frozen_w[row] = drawn_w[row]
            elif lie == "unread limit":
                enforced_w[row] = np.nan
            else:
                drawn_w[row] = self._lied_w(row, lie)
        return drawn_w, clock_mhz, enforced_w

    def passed(self, hardware: Hardware) -> None:
        """A step is over."""
        self._before_w = hardware.drawn_w.copy()

    def _lied_w(self, row: int, lie: str) -> float:
        nameplate_w = float(self.site.fleet.nameplate_w[row])
        lies = {
            "nothing": np.nan,
            "zero": 0.0,
            "negative": -3.0,
            "huge": 1e9,
            "frozen": float(self._frozen_w[row]),
            "random": nameplate_w * float(self.rng.uniform(0.0, 1.5)),
        }
        return lies[lie]


__all__ = ["ALL", "ENFORCE_S", "LIES", "STEP_S", "Hardware", "Sensors", "ToySite", "Wild", "random_site"]
