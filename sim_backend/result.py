"""What one simulated run found: figures for the JSON, series for the report."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Vec = NDArray[np.float64]
PRIORITIES = ("low", "high")
"""Index = the engine's priority code."""
LATENCY_METRICS = ("ttft_s", "tbt_s", "e2e_s")
"""Time to first token; gap between consecutive tokens; end-to-end time."""
QUANTILES = {"p50": 0.50, "p90": 0.90, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class PowerSeries:
    """Power of the budgeted domain, binned for a plot, and the worst minute second by second."""

    bin_s: float
    low_w: Vec
    mean_w: Vec
    high_w: Vec
    """Lowest, mean and highest 1 s power of each bin [bins]."""
    capped_share: Vec
    """Largest share of servers under a cap in each bin, 0..1 [bins]."""
    braked: NDArray[np.bool_]
    """Whether the brake was engaged in the bin [bins]."""
    worst_start_s: float
    worst_w: Vec
    """1 s power around the highest meter reading [about 120 s]."""
    worst_meter_w: Vec
    """What the meter had delivered by then (late, averaged) [as worst_w]."""
    worst_capped_share: Vec
    worst_braked: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LatencyCurve:
    """A cumulative distribution: `share` of all values are at most `value_s`."""

    value_s: Vec
    share: Vec


@dataclass(frozen=True, slots=True)
class RunResult:
    """One policy, one number of added servers, one guarantee."""

    policy: str
    add_servers_pct: float
    servers: int
    actuation: str
    guarantee: str
    figures: dict[str, object]
    """All that goes into the JSON beside the fields above; keys and units in docs/replay-json.md."""
    series: PowerSeries | None = None
    latency: dict[str, dict[str, LatencyCurve]] = field(default_factory=dict)
    """priority -> metric -> distribution."""
    latency_uncapped: dict[str, dict[str, LatencyCurve]] = field(default_factory=dict)
    """The same fleet without any cap."""


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """A whole job."""

    header: dict[str, object]
    """Site, workload, seed, days, versions, budget and how it was derived, servers that fit without control."""
    runs: tuple[RunResult, ...]
