"""Which requests a run gets: a recorded trace or the built-in six weeks, for any number of servers."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from policies.arrays import Vec
from policies.errors import DataError
from policies.models.gpu_power import clock_factor
from sim_backend.arrivals import DAY_S, ArrivalSource, Load, Silence, TraceArrivals
from sim_backend.fleet import Servers
from sim_backend.plant import Plant
from sim_backend.profile import load_profile
from sim_backend.recorded_load import Demand, Floats32
from sim_backend.site import RECORDED, Site
from sim_backend.six_weeks import SIX_WEEKS_DAYS, SixWeeks, SixWeeksParams, Span
from telemetry.request_trace import RequestTrace, read_request_trace

SIX_WEEKS = "six-weeks"
WARM_UP_S = 1_800
"""Ten times the longest request."""
CURVE_RATES = 12
"""Fixed rates at which power is measured to invert it: POLCA's recipe needs about ten."""
TOO_MUCH = 1.1
"""A server that draws more than this times its nameplate is no server: readings exceed it by a few per cent at most."""
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
    power: tuple[str, ...] = ()
    """Recordings of power, the work of the servers that do not serve."""
    power_format: str | None = None

    @property
    def name(self) -> str:
        """What it is made from."""
        return " + ".join((*([] if self.requests is None else [self.requests]), *self.power))

    @property
    def warm_up_s(self) -> int:
        """Start of a run whose power says nothing: the built-in fleet begins empty, as no row does."""
        return WARM_UP_S if self.requests == SIX_WEEKS else 0

    def source(self, servers: int) -> ArrivalSource:
        """Requests for a fleet of this size."""
        if self.requests is None:
            recorded_s = float(len(_recorded_w(self.power, self.power_format)))
            return Silence(recorded_s if self.days is None else DAY_S * self.days)
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
        """The work of the servers that do not serve; None without any.

        Raises:
            DataError: recorded watts that no server of the site could draw.
        """
        recorded = [group for group in site.servers if group.role == RECORDED]
        if not recorded:
            return None
        server_w = _recorded_w(self.power, self.power_format)
        if site.recorded.of == "row":
            server_w = server_w.sum(axis=1, keepdims=True) / sum(group.count for group in recorded)
        profile = load_profile(recorded[0].profile)
        highest_w = float(server_w.max())
        if highest_w > TOO_MUCH * profile.nameplate_w:
            raise DataError(
                f"{', '.join(self.power)}: a source draws up to {highest_w:.0f} W, but a server of profile "
                f'{profile.name} at most {profile.nameplate_w:.0f} W: for the power of a row set of = "row" in '
                "[workload.recorded]"
            )
        if site.recorded.clock_ratio < 1.0:
            other_w = profile.other_w if recorded[0].other_w is None else recorded[0].other_w
            gpu_w = np.maximum(server_w - other_w, 0.0)
            factor = clock_factor(site.recorded.clock_ratio, profile.prefill_static_share, profile.prefill_exponent)
            server_w = (server_w - gpu_w + gpu_w / factor).astype(np.float32)
        return Demand(server_w, site.recorded.together, self.seed)


@lru_cache(maxsize=1)
def _recorded_w(paths: tuple[str, ...], format_name: str | None) -> Floats32:
    """Watts by second and source, each source held from one sample to the next, on their common clock."""
    from telemetry.power_trace import read_power

    trace = read_power(paths, format_name)
    series = [trace.series(source) for source in trace.sources]
    start_s = min(float(time_s[0]) for time_s, _ in series)
    end_s = max(float(time_s[-1]) for time_s, _ in series)
    grid_s = start_s + np.arange(math.floor(end_s - start_s) + 1)
    columns = [power_w[np.maximum(np.searchsorted(time_s, grid_s, "right") - 1, 0)] for time_s, power_w in series]
    return np.column_stack(columns).astype(np.float32)


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
    plant = Plant(servers.profiles, servers.sku, servers.priority, source, site.slo, pack_to=site.pack_to)
    server_w = plant.run_schedule(np.ones((CURVE_S, servers.count)))
    return float(server_w[CURVE_S // 4 :].sum(axis=1).mean())
