"""Which requests a run gets: a recorded trace or the built-in six weeks, for any number of servers."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from policies.arrays import Vec
from sim_backend.arrivals import DAY_S, ArrivalSource, Load, Silence, TraceArrivals
from sim_backend.fleet import Servers
from sim_backend.mixed_plant import build_plant
from sim_backend.recorded_load import Demand
from sim_backend.recorded_power import RecordedPower, demand_of
from sim_backend.site import Site
from sim_backend.six_weeks import SIX_WEEKS_DAYS, SixWeeks, SixWeeksParams, Span
from telemetry.request_trace import RequestTrace, read_request_trace

SIX_WEEKS = "six-weeks"
WARM_UP_S = 1_800
"""Ten times the longest request."""
CURVE_RATES = 12
"""Fixed rates at which power is measured to invert it: POLCA's recipe needs about ten."""
CURVE_S = 2_400
"""Length of each of these runs; the first quarter, until the first long requests have ended, does not count."""


@dataclass(frozen=True, slots=True)
class LoadCurve:
    """Mean fleet power against request rate, measured with the plant; and its inverse."""

    rate_rps: tuple[float, ...]
    """Per server, rising from 0."""
    level: tuple[float, ...]
    """Power over that at the highest rate, rising to 1; idle servers give the first."""

    def rate_of(self, target: Vec) -> Vec:
        """Requests per second and server at which mean power reaches `target` [0..1]."""
        return np.asarray(np.interp(target, self.level, self.rate_rps))


@dataclass(frozen=True, slots=True)
class Workload:
    """A recipe for requests, small enough to send to another process."""

    requests: str | None
    """Path of a trace, or `SIX_WEEKS`; None: no requests at all."""
    seed: int
    days: float | None
    start_day: float
    """Where in the six weeks the run begins; a recorded trace begins with itself."""
    rate: float
    compress_time: float
    low_share: float
    overrides: dict[str, float]
    base_servers: int
    """Servers for which the recorded rate is meant; load per server stays when more are added."""
    curve: LoadCurve | None = None
    """Only for the six weeks."""
    power: RecordedPower | None = None
    """The work of the servers that do not serve."""

    @property
    def name(self) -> str:
        """What it is made from."""
        recorded = () if self.power is None else self.power.paths
        return " + ".join((*([] if self.requests is None else [self.requests]), *recorded))

    @property
    def warm_up_s(self) -> int:
        """Start of a run whose power says nothing: the built-in fleet begins empty, as no row does."""
        return WARM_UP_S if self.requests == SIX_WEEKS else 0

    def source(self, servers: int) -> ArrivalSource:
        """Requests for a fleet of this size."""
        if self.requests is None:
            assert self.power is not None
            return Silence(self.power.duration_s if self.days is None else DAY_S * self.days)
        if self.requests == SIX_WEEKS:
            assert self.curve is not None
            params = SixWeeksParams().with_overrides(self.overrides)
            days = SIX_WEEKS_DAYS - self.start_day if self.days is None else self.days
            span = Span(days, self.start_day)
            return SixWeeks(params, servers * self.rate, self.curve.rate_of, self.seed, span)
        load = Load(
            factor=self.rate * servers / self.base_servers,
            compress_time=self.compress_time,
            low_share=self.low_share,
            days=self.days,
            seed=self.seed,
        )
        return TraceArrivals(_trace(self.requests), load)

    def demand(self, site: Site) -> Demand | None:
        """The work of the servers that do not serve; None without any."""
        return None if self.power is None else demand_of(self.power, site, self.seed)


@lru_cache(maxsize=1)
def _trace(path: str) -> RequestTrace:
    """Each process reads a trace once."""
    return read_request_trace(Path(path))


def measure_load_curve(site: Site, servers: Servers, params: SixWeeksParams, seed: int) -> LoadCurve:
    """Run the plant at fixed rates up to the peak and tabulate the mean power that each gives.

    Step 2 of POLCA's recipe: the target of the six weeks is a power, requests are what the plant takes.
    """
    rates = np.linspace(0.0, params.peak_rate_rps, CURVE_RATES)
    power_w = np.array([_mean_power_w(site, servers, params, float(r), seed) for r in rates])
    # Measured means scatter by a few per mille; a fleet's power never falls with its load.
    power_w = np.maximum.accumulate(power_w)
    level = power_w / power_w[-1]
    rising = np.concatenate(([True], np.diff(level) > 0.0))
    return LoadCurve(tuple(rates[rising].tolist()), tuple(level[rising].tolist()))


def _mean_power_w(site: Site, servers: Servers, params: SixWeeksParams, rate_rps: float, seed: int) -> float:
    source = SixWeeks(
        replace(params, burst_cv=0.0, jump_cv=0.0, flash_per_day=0.0),
        servers.count,
        lambda target: np.full(target.shape, rate_rps),
        seed,
        Span(CURVE_S / DAY_S),
    )
    plant = build_plant(servers, source, site, None)
    server_w = plant.run_schedule(np.ones((CURVE_S, servers.count)))
    return float(server_w[CURVE_S // 4 :].sum(axis=1).mean())
