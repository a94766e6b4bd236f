"""The screening tier: how long a week of 1,000 servers takes it, and how far its row power is from the request tier's.

Both tiers get the same requests and caps; errors are of the row's power second by second, after the fleet has filled.
W-like requests have the lengths of W (docs/data.md), the others those of the six weeks.
"""

import os
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.plant_bench import TRACE
from policies.arrays import Vec
from sim_backend.arrivals import Arrivals
from sim_backend.fluid import Demand, RequestTypes, ServerClass, run_fluid
from sim_backend.plant import Plant
from sim_backend.profile import Profile, load_profile
from sim_backend.six_weeks import SixWeeks, SixWeeksParams, Span
from telemetry.request_trace import read_request_trace

HOUR_S, WEEK_S, DAY_S = 3_600, 604_800, 86_400
FILLING_S = 600
PER_SERVER_RPS = 1.65
"""Of W: 19,366 requests in 293 s on 40 servers."""
REPEATS = 3
SERVERS = 1_000
Lengths = tuple[NDArray[np.int32], NDArray[np.int32]]


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison over an hour."""

    name: str
    servers: int
    rps: float
    """Of a server; 0: the six weeks."""
    profile: str = "dgx-h100__bloom-176b"
    capped: bool = False
    swing: float = 0.0
    """By how much the rate swings around its mean, with a period of a quarter of an hour."""
    pack_to: int = 1


CASES = (
    Case("W-like", 40, PER_SERVER_RPS),
    Case("W-like, clock caps", 40, PER_SERVER_RPS, capped=True),
    Case("W-like, swinging by half", 40, PER_SERVER_RPS, swing=0.5),
    Case("W-like, a third of the load", 40, PER_SERVER_RPS / 3.0),
    Case("W-like, a twentieth", 40, PER_SERVER_RPS / 20.0),
    Case("W-like, a third, packed to 8", 40, PER_SERVER_RPS / 3.0, pack_to=8),
    Case("W-like, overloaded by half", 40, 1.5 * PER_SERVER_RPS),
    Case("W-like, 320 servers", 320, PER_SERVER_RPS),
    Case("W-like, 1,000 servers, clock caps", 1_000, 0.5 * PER_SERVER_RPS, capped=True),
    Case("six weeks", 40, 0.0),
    Case("six weeks, packed to 8", 40, 0.0, pack_to=8),
    Case("six weeks, 1,000 servers, clock caps", 1_000, 0.0, capped=True),
    Case("Llama 2 70B on A100, W-like, clock caps", 40, 0.75, "dgx-a100__llama2-70b", capped=True),
    Case("Llama 2 70B on H100, W-like", 40, 2.0, "dgx-h100__llama2-70b"),
)


class Drawn:
    """An hour of Poisson arrivals with recorded lengths, half of them low priority."""

    def __init__(self, lengths: Lengths, rate_rps: Vec, seed: int) -> None:
        """Draw them all."""
        rng = np.random.default_rng(seed)
        counts = rng.poisson(rate_rps)
        total = int(counts.sum())
        arrival_s = np.repeat(np.arange(len(rate_rps), dtype=np.float64), counts) + rng.random(total)
        chosen = rng.integers(0, len(lengths[0]), total)
        self.duration_s = float(len(rate_rps))
        self._requests = Arrivals(
            np.sort(arrival_s), lengths[0][chosen], lengths[1][chosen], (rng.random(total) < 0.5).astype(np.int8)
        )

    def blocks(self) -> Iterator[Arrivals]:
        """All at once."""
        return iter([self._requests])


def lengths_of_w() -> Lengths:
    recordings = os.environ.get("OVERWATT_DATA")
    if recordings is None or not (Path(recordings) / TRACE).exists():
        sys.exit("fluid_bench: set OVERWATT_DATA to the recordings; docs/data.md says how to make them")
    with read_request_trace(Path(recordings) / TRACE) as trace:
        rows = trace.read(0, trace.rows)
        return rows["prompt_tokens"].copy(), rows["output_tokens"].copy()


def two_priorities(servers: int, profile: Profile) -> list[ServerClass]:
    return [ServerClass(servers // 2, profile, 0), ServerClass(servers - servers // 2, profile, 1)]


def clock_caps(capped: bool) -> Vec:
    """The low class at 0.7 of its clock every other minute, the high one at 0.85 every other minute and a half."""
    caps = np.ones((HOUR_S, 2))
    if capped:
        seconds = np.arange(HOUR_S)
        caps[:, 0] = np.where(seconds // 60 % 2, 0.7, 1.0)
        caps[:, 1] = np.where(seconds // 90 % 2, 0.85, 1.0)
    return caps


def both_tiers(case: Case, lengths: Lengths) -> tuple[Vec, Vec]:
    """Row power of the request tier and of this one [seconds]."""
    source: Drawn | SixWeeks
    if case.rps > 0.0:
        swing = case.swing * np.sin(2.0 * np.pi * np.arange(HOUR_S) / (HOUR_S / 4))
        source = Drawn(lengths, case.rps * case.servers * (1.0 + swing), 1)
    else:
        source = SixWeeks(SixWeeksParams(), case.servers, lambda u: 0.1 * u, 1, Span(HOUR_S / DAY_S, 0.5))
    classes = two_priorities(case.servers, load_profile(case.profile))
    sku = np.repeat([0, 1], [each.count for each in classes])
    caps = clock_caps(case.capped)
    plant = Plant([each.profile for each in classes], sku, sku, source, {}, pack_to=case.pack_to)
    exact_w = plant.run_schedule(caps[:, sku]).sum(axis=1)
    found = run_fluid(classes, Demand.of_source(source), clock_ratio=caps, pack_to=case.pack_to)
    return exact_w[FILLING_S:], found.drawn_w.sum(axis=1)[FILLING_S:]


def week_s(types: RequestTypes, per_server_rps: float) -> tuple[float, float]:
    """Median processor seconds to draw the counts of a week with a daily swing, and to run it for two priorities."""
    classes = two_priorities(SERVERS, load_profile("dgx-h100__bloom-176b"))
    day = 1.0 + 0.3 * np.sin(2.0 * np.pi * np.arange(WEEK_S) / DAY_S)
    rate_rps = 0.5 * per_server_rps * SERVERS * np.stack([day, day], axis=1)
    drawing_s, running_s = [], []
    for seed in range(REPEATS):
        began_s = time.process_time()
        demand = Demand.of_rate(rate_rps, types, seed)
        drawing_s.append(time.process_time() - began_s)
        run_fluid(classes, replace(demand, counts=demand.counts[:10]))
        began_s = time.process_time()
        run_fluid(classes, demand)
        running_s.append(time.process_time() - began_s)
    return statistics.median(drawing_s), statistics.median(running_s)


def main() -> None:
    """Measure and print."""
    lengths = lengths_of_w()
    print("| an hour | servers | W per server | mean | median | p99 | largest second |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for case in CASES:
        exact_w, found_w = both_tiers(case, lengths)
        shares = (0.5, 0.99, 1.0)
        errors = [found_w.mean() / exact_w.mean() - 1.0]
        errors += [float(np.quantile(found_w, share) / np.quantile(exact_w, share)) - 1.0 for share in shares]
        cells = " | ".join(f"{100.0 * error:+.2f} %" for error in errors)
        print(f"| {case.name} | {case.servers} | {exact_w.mean() / case.servers:,.0f} | {cells} |", flush=True)
    mixes = {"W-like requests": RequestTypes.of(*lengths), "six weeks": None}
    for name, types in mixes.items():
        if types is None:
            hour = SixWeeks(SixWeeksParams(), SERVERS, lambda u: 0.1 * u, 1, Span(HOUR_S / DAY_S, 0.5))
            drawn_s, took_s = week_s(Demand.of_source(hour).types, 0.1)
        else:
            drawn_s, took_s = week_s(types, PER_SERVER_RPS)
        print(f"a week of {SERVERS:,} servers, {name}: {took_s:.1f} s, and {drawn_s:.1f} s to draw its counts")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0:.0f} MB")


if __name__ == "__main__":
    main()
