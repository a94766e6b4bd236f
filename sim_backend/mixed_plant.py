"""A fleet of which some servers serve requests and others do recorded work, behind the surface of the plant."""

from typing import TYPE_CHECKING

import numpy as np

from policies.arrays import Flags, Vec
from sim_backend import params as p
from sim_backend.arrivals import ArrivalSource
from sim_backend.fleet import Servers
from sim_backend.histogram import BINS
from sim_backend.plant import Plant, PlantStats
from sim_backend.recorded_load import Demand, RecordedLoad
from sim_backend.result import PRIORITIES
from sim_backend.site import Site

if TYPE_CHECKING:
    from sim_backend.pools.pools import Pools


class MixedPlant:
    """Serving engines and recorded work under the same caps; either kind may be missing."""

    def __init__(self, serving: "Plant | Pools | None", recorded: RecordedLoad, is_recorded: Flags) -> None:
        """Both at time 0.

        Args:
            serving: the servers that are not recorded, in their order.
            recorded: the others.
            is_recorded: which servers are which [n].
        """
        self.serving, self.recorded = serving, recorded
        self._at_recorded, self._at_serving = np.flatnonzero(is_recorded), np.flatnonzero(~is_recorded)
        nothing = PlantStats(
            np.zeros((len(PRIORITIES), p.NCOUNTER), np.int64), np.zeros((p.NHISTOGRAM, BINS), np.int64)
        )
        self.stats = nothing if serving is None else serving.stats
        """Of the servers that serve."""

    @property
    def now_s(self) -> float:
        """Simulated time."""
        return self.recorded.now_s

    @property
    def clock_ratio(self) -> Vec:
        """As `Plant.clock_ratio` [n]."""
        return self._joined(None if self.serving is None else self.serving.clock_ratio, self.recorded.clock_ratio)

    @property
    def busy(self) -> Flags:
        """As `Plant.busy` [n]."""
        serving = None if self.serving is None else self.serving.busy.astype(np.float64)
        return np.asarray(self._joined(serving, self.recorded.busy.astype(np.float64)) != 0.0)

    def advance(self, until_s: float) -> None:
        """Let everything up to and at `until_s` happen."""
        if self.serving is not None:
            self.serving.advance(until_s)
        self.recorded.advance(until_s)

    def set_caps(self, clock_ratio: Vec, limit_w: Vec) -> None:
        """As `Plant.set_caps`."""
        if self.serving is not None:
            self.serving.set_caps(clock_ratio[self._at_serving], limit_w[self._at_serving])
        self.recorded.set_caps(clock_ratio[self._at_recorded], limit_w[self._at_recorded])

    def take_mean_w(self) -> Vec:
        """As `Plant.take_mean_w` [n]."""
        return self._joined(None if self.serving is None else self.serving.take_mean_w(), self.recorded.take_mean_w())

    def run_schedule(self, clock_ratio: Vec) -> Vec:
        """As `Plant.run_schedule` [steps, n]."""
        mean_w = np.empty(clock_ratio.shape)
        no_limit = np.full(clock_ratio.shape[1], np.inf)
        for step, caps in enumerate(clock_ratio):
            self.set_caps(caps, no_limit)
            self.advance(self.now_s + 1.0)
            mean_w[step] = self.take_mean_w()
        return mean_w

    def work_shares(self) -> Vec:
        """Work done over the work done uncapped, of each server with recorded work."""
        return self.recorded.work_share

    def _joined(self, serving: Vec | None, recorded: Vec) -> Vec:
        whole = np.empty(self._at_serving.size + self._at_recorded.size)
        whole[self._at_recorded] = recorded
        if serving is not None:
            whole[self._at_serving] = serving
        return whole


def build_plant(
    servers: Servers, source: ArrivalSource, site: Site, demand: Demand | None
) -> "Plant | Pools | MixedPlant":
    """The plant that these servers are; `demand` is the work of those that do not serve."""
    serves = ~servers.recorded
    if demand is None:
        return _serving(servers, source, site, serves)
    recorded = RecordedLoad(servers.profiles, servers.sku[servers.recorded], demand)
    serving = _serving(servers, source, site, serves) if serves.any() else None
    return MixedPlant(serving, recorded, servers.recorded)


def _serving(servers: Servers, source: ArrivalSource, site: Site, which: Flags) -> "Plant | Pools":
    """The engines: the fast plant where it can, else the pools, which know chunks and phases apart."""
    if not (site.pooled or site.serving.chunked):
        sku, priority = servers.sku[which], servers.priority[which]
        return Plant(servers.profiles, sku, priority, source, site.slo, pack_to=site.pack_to)
    # Imported here: sites without pools need not wait for what only these compile.
    from sim_backend.pools.kinds import kind_of_profile
    from sim_backend.pools.pools import Pools
    from sim_backend.pools.semantics import DEFAULT
    from sim_backend.pools.setup import KvLink, Setup

    link = None
    if site.pooled:
        serving = site.serving
        assert serving.kv_bytes_per_token is not None, "the site file is refused without"
        link = KvLink(serving.kv_bytes_per_token, serving.link_bytes_per_s, serving.link_latency_s)
    setup = Setup(
        kinds=[kind_of_profile(profile) for profile in servers.profiles],
        kind=servers.sku[which].tolist(),
        role=[role for role, serves in zip(servers.role, which, strict=True) if serves],
        link=link,
        rules=DEFAULT,
        cached_share=site.serving.cached_share,
    )
    return Pools(setup, source, site.slo)
