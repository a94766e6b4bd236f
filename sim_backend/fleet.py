"""A site's servers as arrays: what the plant simulates, what the agents know, what the controller believes."""

from dataclasses import dataclass, replace

import numpy as np

from policies.agent_core import AgentConfig
from policies.arrays import Flags, Ints, Vec
from policies.models.fleet import FleetModel
from policies.policy import Fleet
from policies.topology import Constraints, Topology
from sim_backend.profile import Profile, load_profile
from sim_backend.result import PRIORITIES
from sim_backend.site import RECORDED, Path, ServerGroup, Site


@dataclass(frozen=True, slots=True, eq=False)
class Servers:
    """All servers of one run; arrays [n]."""

    profiles: tuple[Profile, ...]
    sku: Ints
    """Index into `profiles`."""
    priority: Ints
    role: tuple[str, ...]
    """As `ServerGroup.role` [n]."""
    failsafe_w: Vec
    topology: Topology
    constraints: Constraints
    budget_w: Vec
    """Of each constraint [m]."""

    @property
    def count(self) -> int:
        """How many servers there are."""
        return int(self.sku.size)

    @property
    def recorded(self) -> Flags:
        """Which servers do recorded work instead of serving [n]."""
        return np.array([role == RECORDED for role in self.role])

    @property
    def serving(self) -> int:
        """How many of them serve."""
        return self.count - int(self.recorded.sum())

    def field(self, name: str) -> Vec:
        """A profile's field for every server [n]."""
        return np.array([float(getattr(p, name)) for p in self.profiles])[self.sku]

    def agent_config(self) -> AgentConfig:
        """What each agent knows of its own server."""
        return AgentConfig(
            failsafe_w=self.failsafe_w.copy(),
            nameplate_w=self.field("nameplate_w"),
            other_max_w=self.field("other_max_w"),
            gpus=self.field("gpus"),
            overshoot_ratio=self.field("overshoot_ratio"),
            min_limit_w=self.field("min_limit_w"),
            max_mhz=self.field("max_mhz"),
            min_mhz=self.field("min_mhz"),
        )

    def failsafe_floor_w(self) -> Vec:
        """The lowest cap each server can keep: its GPUs at their lowest limit and clock, the rest at its most [n]."""
        return self.field("other_max_w") + self.field("gpus") * self.field("lowest_gpu_w")

    def fleet(self, site: Site) -> Fleet:
        """What the controller's policy may know of the servers."""
        path = site.actuation
        reading_s = path.meter_window_s + path.meter_delay_s if path.path is Path.OUT_OF_BAND else 1.0
        return Fleet(
            priority=self.priority.copy(),
            nameplate_w=self.field("nameplate_w"),
            failsafe_w=self.failsafe_w.copy(),
            max_mhz=self.field("max_mhz"),
            min_mhz=self.field("min_mhz"),
            members=tuple(self.constraints.servers(c) for c in range(self.constraints.count)),
            cap_latency_s=path.latency_s,
            effect_s=path.latency_s + reading_s,
        )

    def model(self) -> FleetModel:
        """The power equations with the plant's own parameters; the controller disturbs them before use."""
        return FleetModel(
            other_w=self.field("other_w"),
            static_share=self.field("decode_static_share"),
            exponent=self.field("decode_exponent"),
            max_mhz=self.field("max_mhz"),
        )


def enlarged(groups: tuple[ServerGroup, ...], add_pct: float) -> tuple[ServerGroup, ...]:
    """The same groups with `add_pct` per cent more servers in all, shared out by largest remainder."""
    total = sum(g.count for g in groups)
    target = round(total * (1.0 + add_pct / 100.0))
    exact = [g.count * target / total for g in groups]
    counts = [int(x) for x in exact]
    by_remainder = sorted(range(len(groups)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: target - sum(counts)]:
        counts[i] += 1
    return tuple(replace(g, count=c) for g, c in zip(groups, counts, strict=True))


def build_servers(site: Site, add_pct: float) -> Servers:
    """Expand a site's groups, `add_pct` per cent enlarged, with failsafe caps that still fit the budgets.

    When servers are added the budget stays: each failsafe cap becomes min(given, budget / servers below).
    """
    groups = enlarged(site.servers, add_pct)
    names = tuple(dict.fromkeys(g.profile for g in groups))
    loaded = {name: load_profile(name) for name in names}
    variants: dict[tuple[str, float | None], int] = {}
    profiles: list[Profile] = []
    for g in groups:
        if (g.profile, g.other_w) not in variants:
            variants[g.profile, g.other_w] = len(profiles)
            profiles.append(loaded[g.profile] if g.other_w is None else loaded[g.profile].with_other_w(g.other_w))
    repeats = [g.count for g in groups]
    index = {d.name: i for i, d in enumerate(site.domains)}
    parents = [-1 if d.parent is None else index[d.parent] for d in site.domains]
    topology = Topology(
        [d.name for d in site.domains], parents, np.repeat(np.array([index[g.domain] for g in groups]), repeats)
    )
    budgeted = [i for i, d in enumerate(site.domains) if d.budget_w is not None]
    constraints = Constraints.of_tree(topology, budgeted)
    budget_w = np.array([float(b) for d in site.domains if (b := d.budget_w) is not None])
    failsafe_w = np.repeat(np.array([g.failsafe_w for g in groups]), repeats)
    for c in range(constraints.count):
        members = constraints.servers(c)
        failsafe_w[members] = np.minimum(failsafe_w[members], budget_w[c] / members.size)
    return Servers(
        profiles=tuple(profiles),
        sku=np.repeat(np.array([variants[g.profile, g.other_w] for g in groups]), repeats).astype(np.int64),
        priority=np.repeat(np.array([PRIORITIES.index(g.priority) for g in groups]), repeats).astype(np.int64),
        role=tuple(g.role for g in groups for _ in range(g.count)),
        failsafe_w=failsafe_w,
        topology=topology,
        constraints=constraints,
        budget_w=budget_w,
    )
