"""Recordings of power read as work: which sources, on which clock, and what they would have drawn uncapped."""

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from policies.errors import DataError
from policies.models.gpu_power import clock_factor
from sim_backend.profile import load_profile
from sim_backend.recorded_load import Demand, Floats32
from sim_backend.site import RECORDED, Site

Floats = NDArray[np.float64]

TOO_MUCH = 1.1
"""A server that draws more than this times its nameplate is no server: readings exceed it by a few per cent at most."""


@dataclass(frozen=True, slots=True)
class RecordedPower:
    """Which recordings; small enough to send to another process."""

    paths: tuple[str, ...]
    format_name: str | None = None
    """None: each file is asked."""
    sources: str = "*"
    """Pattern of the names of sources to take: where two sensors watch a server, one of them."""

    @property
    def duration_s(self) -> float:
        """From the first sample of any source to the last."""
        return float(len(_server_w(self)))


def demand_of(recorded: RecordedPower, site: Site, seed: int) -> Demand:
    """The work of the site's servers that do not serve.

    Raises:
        DataError: more sources than servers, or recorded watts that no server of the site could draw.
    """
    groups = [group for group in site.servers if group.role == RECORDED]
    servers, name = sum(group.count for group in groups), ", ".join(recorded.paths)
    server_w = _server_w(recorded)
    if site.recorded.of == "row":
        server_w = server_w.sum(axis=1, keepdims=True) / servers
    if server_w.shape[1] > servers:
        raise DataError(
            f'{name}: {server_w.shape[1]} sources for {servers} servers with role = "recorded": choose sources with '
            "--power-source (overwatt import shows their names), or raise count"
        )
    profile = load_profile(groups[0].profile)
    highest_w = float(server_w.max())
    if highest_w > TOO_MUCH * profile.nameplate_w:
        raise DataError(
            f"{name}: a source draws up to {highest_w:.0f} W, but a server of profile {profile.name} at most "
            f'{profile.nameplate_w:.0f} W: for the power of a row set of = "row" in [workload.recorded]'
        )
    if site.recorded.clock_ratio < 1.0:
        other_w = profile.other_w if groups[0].other_w is None else groups[0].other_w
        gpu_w = np.maximum(server_w - other_w, 0.0)
        factor = clock_factor(site.recorded.clock_ratio, profile.prefill_static_share, profile.prefill_exponent)
        server_w = (server_w - gpu_w + gpu_w / factor).astype(np.float32)
    return Demand(server_w, site.recorded.together, seed)


@lru_cache(maxsize=1)
def _server_w(recorded: RecordedPower) -> Floats32:
    """Watts by second and source, each held from one sample to the next, on their common clock."""
    from telemetry.power_trace import read_power

    with read_power(recorded.paths, recorded.format_name) as trace:
        names = [name for name in trace.sources if fnmatchcase(name, recorded.sources)]
        if not names:
            known = ", ".join(trace.sources[:8]) or "none with watts"
            raise DataError(f"{', '.join(recorded.paths)}: no source called '{recorded.sources}'; there are {known}")
        sensors = {name.partition("/")[0] for name in names if "/" in name}
        if {"ac", "dc"} <= sensors:
            raise DataError(
                f"{', '.join(recorded.paths)}: input and output sensors of the same servers; choose with "
                "--power-source 'ac/*' or 'dc/*'"
            )
        series = [(time_s[known], power_w[known]) for time_s, power_w, known in map(_known, map(trace.series, names))]
    start_s = min(float(time_s[0]) for time_s, _ in series)
    end_s = max(float(time_s[-1]) for time_s, _ in series)
    grid_s = start_s + np.arange(math.floor(end_s - start_s) + 1)
    columns = [power_w[np.maximum(np.searchsorted(time_s, grid_s, "right") - 1, 0)] for time_s, power_w in series]
    return np.column_stack(columns).astype(np.float32)


def _known(series: tuple[Floats, Floats]) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """A series, and where it has a reading: what a meter missed, it went on drawing as before."""
    return *series, np.isfinite(series[1])
