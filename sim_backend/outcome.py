"""From what a run left behind to the figures of its report, against the same fleet uncapped."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from policies.arrays import Ints, Vec
from sim_backend.histogram import Counts, curve, quantile
from sim_backend.plant import PlantStats
from sim_backend.result import LATENCY_METRICS, PRIORITIES, QUANTILES, LatencyCurve

CURVE_POINTS = 160
"""Enough for a smooth line over half a page."""


class Observed(Protocol):
    """What may be read off any plant: `Plant`, `Pools` and `MixedPlant`."""

    @property
    def now_s(self) -> float:
        """Simulated time."""
        ...

    @property
    def stats(self) -> PlantStats:
        """Counters and histograms since the start."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What the users of the models got; index 0 low, 1 high priority."""

    bins: dict[str, Counts]
    """Histogram per metric [2, BINS]."""
    hours: Vec
    """End-to-end p50 and p99 of each hour [hours, 2, 2]."""
    arrived: Ints
    completed: Ints
    rejected: Ints
    generated_tokens: Ints
    good: Ints
    duration_s: float


def outcome_of(plant: Observed, hours: list[Vec]) -> Outcome:
    """Read a plant at the end of its run."""
    stats = plant.stats
    return Outcome(
        bins={"ttft_s": stats.ttft_s.copy(), "tbt_s": stats.tbt_s.copy(), "e2e_s": stats.e2e_s.copy()},
        hours=np.array(hours).reshape(len(hours), 2, 2),
        arrived=stats.arrived.copy(),
        completed=stats.completed.copy(),
        rejected=stats.rejected.copy(),
        generated_tokens=stats.generated_tokens.copy(),
        good=stats.good.copy(),
        duration_s=plant.now_s,
    )


def latency(outcome: Outcome) -> dict[str, dict[str, dict[str, float]]]:
    """Priority -> metric -> quantile -> seconds; a priority without requests is left out."""
    return {
        name: {
            metric: {q: quantile(outcome.bins[metric][code], share) for q, share in QUANTILES.items()}
            for metric in LATENCY_METRICS
        }
        for code, name in enumerate(PRIORITIES)
        if outcome.bins["e2e_s"][code].any()
    }


def curves(outcome: Outcome) -> dict[str, dict[str, LatencyCurve]]:
    """Priority -> metric -> cumulative distribution."""
    return {
        name: {metric: curve(outcome.bins[metric][code], CURVE_POINTS) for metric in LATENCY_METRICS}
        for code, name in enumerate(PRIORITIES)
        if outcome.bins["e2e_s"][code].any()
    }


def user_figures(outcome: Outcome, uncapped: Outcome) -> dict[str, object]:
    """Latency, throughput and goodput, and how caps changed them."""
    now, before = latency(outcome), latency(uncapped)
    detail = {
        name: {
            metric: {q: _change_pct(now[name][metric][q], before[name][metric][q]) for q in QUANTILES}
            for metric in LATENCY_METRICS
        }
        for name in now
        if name in before
    }
    tokens_per_s = outcome.generated_tokens / outcome.duration_s
    uncapped_per_s = uncapped.generated_tokens / uncapped.duration_s
    return {
        "latency": {name: now.get(name) for name in PRIORITIES},
        "latency_change_pct": {
            name: {q: detail[name]["e2e_s"][q] for q in ("p50", "p99")} if name in detail else None
            for name in PRIORITIES
        },
        "latency_change_detail_pct": {name: detail.get(name) for name in PRIORITIES},
        "worst_hour_change_pct": _worst_hour(outcome.hours, uncapped.hours),
        "throughput_tokens_per_s": _named(tokens_per_s),
        "throughput_change_pct": {
            name: _change_pct(tokens_per_s[c], uncapped_per_s[c]) for c, name in enumerate(PRIORITIES)
        },
        "goodput_rps": _named(outcome.good / outcome.duration_s),
        "slo_attainment_ratio": {
            name: float(outcome.good[c] / outcome.completed[c]) if outcome.completed[c] else None
            for c, name in enumerate(PRIORITIES)
        },
        "requests": {
            "arrived": _counted(outcome.arrived),
            "completed": _counted(outcome.completed),
            "in_flight": _counted(outcome.arrived - outcome.completed - outcome.rejected),
            "rejected": _counted(outcome.rejected),
        },
    }


def _named(values: Vec) -> dict[str, float]:
    return {name: float(values[code]) for code, name in enumerate(PRIORITIES)}


def _counted(values: Ints) -> dict[str, int]:
    return {name: int(values[code]) for code, name in enumerate(PRIORITIES)}


def _change_pct(now: float, before: float) -> float | None:
    if not (math.isfinite(now) and math.isfinite(before)) or before == 0.0:
        return None
    return 100.0 * (float(now) / float(before) - 1.0)


def _worst_hour(hours: Vec, uncapped: Vec) -> dict[str, dict[str, float | None]]:
    """Largest change of an hour's quantile, per priority; null for runs shorter than an hour."""
    known = np.isfinite(hours) & np.isfinite(uncapped) & (uncapped > 0.0)
    change = np.where(known, 100.0 * (hours / np.where(known, uncapped, 1.0) - 1.0), -np.inf)
    return {
        name: {
            q: float(change[:, code, i].max()) if len(hours) and known[:, code, i].any() else None
            for i, q in enumerate(("p50", "p99"))
        }
        for code, name in enumerate(PRIORITIES)
    }
